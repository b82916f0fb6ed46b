"""Reports by route: against a counter, at one moment with their totals, within their bounds."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from hitledger import Ledger, ledger
from hitledger.errors import QueryError
from hitledger.ledger import LedgerStore
from hitledger.paths import NO_ROUTE, OVERFLOW
from hitledger.report import Page, Query, Reports, routes, snapshot
from hitledger.report.page import RouteRow, routes_of
from hitledger.settings import Settings
from tests.report_support import book, book_routed, with_shards

# Real time, because the server expires what is old by its own clock.
NOW = datetime.now(UTC).replace(minute=15, second=0, microsecond=0)
_prefixes = itertools.count()

Hit = tuple[str, str | None, int, int]
"""URL or line, route if it is known, hours ago, number."""

hits = st.lists(
    st.tuples(
        st.sampled_from(["/", "/a", "/a/1/", "/a/2/", "/b/1/", "/b/2/", "(unmatched)"]),
        st.sampled_from([None, "/<a>/", "/a/<id>/", "/b/<id>/", "^b/(?P<id>[0-9,]+)/$", '/"quoted\\"/', OVERFLOW]),
        st.integers(0, 40),
        st.integers(1, 3),
    ),
    max_size=40,
)
back = st.integers(0, 40)
Times = tuple[dict[str, str], datetime, datetime]
"""Parameters of a report, and from when to when they are."""


def one_period(kind: str, ago: int) -> Times:
    """Return the hour or day that was so many hours ago."""
    start = (NOW - timedelta(hours=ago)).replace(minute=0)
    start = start if kind == "hour" else start.replace(hour=0)
    return {"period": kind, "at": start.isoformat()}, start, start + timedelta(hours=1 if kind == "hour" else 24)


def several_hours(ago: int, length: int) -> Times:
    """Return a range of hours."""
    end = NOW.replace(minute=0) - timedelta(hours=ago)
    start = end - timedelta(hours=length)
    return {"from": start.isoformat(), "to": end.isoformat()}, start, end


times: st.SearchStrategy[Times] = st.one_of(
    st.just(({}, NOW - timedelta(days=3), NOW + timedelta(days=1))),
    st.builds(one_period, st.sampled_from(["hour", "day"]), back),
    st.builds(several_hours, st.integers(0, 25), st.integers(1, 20)),
)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read so few routes at a time that most reports take several readings."""
    for module in (routes, snapshot):
        monkeypatch.setattr(module, "STREAM_ROWS", 3)


def pages_of(reports: Reports, query: Query) -> list[Page]:
    """Return all pages of a report."""
    pages = [reports.page(query)]
    while pages[-1].cursor:
        pages.append(reports.page(replace(query, cursor=pages[-1].cursor)))
    return pages


def test_the_sum_of_a_page() -> None:
    """Routes and lines together are the total, whatever is on the line of new ones past the cap."""
    found = routes.Routed()
    found.note(9, ["/a/", "2", OVERFLOW, "3"])
    found.note(1, ["/a/", "1"])
    assert found.split() == ({b"/a/": 3}, {NO_ROUTE: 4, OVERFLOW: 3})


@pytest.mark.slow
@examples(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(raw=hits, asked=times, shards=st.sampled_from([1, 16]), limit=st.integers(1, 4))
def test_routes_are_as_counted(settings: Settings, raw: list[Hit], asked: Times, shards: int, limit: int) -> None:
    """Whatever was requested when: the pages have each route once, in order, and all adds up to the total."""
    parameters, first, last = asked
    settings = replace(settings, shards=shards, key_prefix=f"{settings.key_prefix}-{next(_prefixes)}")
    with closing(LedgerStore(settings)) as store:
        for url, route, hours, number in raw:
            book_routed(store, NOW - timedelta(hours=hours), [(url, route, number)])
        pages = pages_of(Reports(store, settings), Query.read({**parameters, "group": "route", "limit": str(limit)}))
    expected: Counter[str | None] = Counter()
    for _, route, hours, number in raw:
        if first <= NOW - timedelta(hours=hours) < last:
            expected[route] += number
    other = {NO_ROUTE: expected.pop(None, 0), OVERFLOW: expected.pop(OVERFLOW, 0)}
    in_order = sorted(((number, str(route)) for route, number in expected.items()), reverse=True)
    assert [(row.requests, row.route) for page in pages for row in page.routes] == in_order
    assert all(len(page.routes) == limit for page in pages[:-1])
    for page in pages:
        assert page.lines == other
        assert page.total_routes == len(expected)
        assert page.total_requests == sum(expected.values()) + sum(other.values())


@contextmanager
def disturbed(store: LedgerStore, disturb: Callable[[], None]) -> Iterator[None]:
    """Have something done before each reading of the ledger."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("read", "read_at_one_moment"):
            reading = getattr(store, name)

            def read(calls: Any, reading: Callable[..., Any] = reading, **options: Any) -> Any:
                disturb()
                return reading(calls, **options)

            patched.setattr(store, name, read)
        yield


@pytest.mark.parametrize("parameters", [{}, {"from": (NOW - timedelta(hours=30)).strftime("%Y-%m-%dT%H")}])
@pytest.mark.parametrize("shards", [1, 3])
def test_hits_that_come_meanwhile_do_not_lose_their_route(
    settings: Settings, shards: int, parameters: dict[str, str]
) -> None:
    """However much is posted between two readings: where every hit has a route, none is shown without one."""
    settings = with_shards(settings, shards)
    with closing(LedgerStore(settings)) as store, closing(LedgerStore(settings)) as other:
        more = [(f"/{number}", f"/<{number % 3}>", 1 + number) for number in range(9)]

        def post() -> None:
            for hours in (0, 1, 29):
                book_routed(other, NOW - timedelta(hours=hours), more)

        post()
        query = Query.read({"group": "route", **parameters})
        with disturbed(store, post):
            page = Reports(store, settings).page(query)
        assert page.lines == {NO_ROUTE: 0, OVERFLOW: 0}
        assert page.total_requests == sum(row.requests for row in page.routes)
        assert page.total_requests > 3 * sum(number for _, _, number in more)


def test_past_the_cap_new_routes_are_one_line(
    store: LedgerStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger takes so many routes; hits on others are in the total, on their own line."""
    monkeypatch.setattr(ledger, "MOST_ROUTES", 2)
    for number in range(1, 5):
        book_routed(store, NOW, [("/x", f"/<{number}>", number)])
    page = Reports(store, settings).page(Query(group="route"))
    assert page.routes == [RouteRow("/<2>", 2), RouteRow("/<1>", 1)]
    assert (page.lines, page.total_requests) == ({NO_ROUTE: 0, OVERFLOW: 7}, 10)


def test_too_many_routes_are_refused_before_they_are_read(store: LedgerStore, settings: Settings) -> None:
    """A report by route reads at most as many entries as the settings allow, whatever the number of URLs."""
    reports = Reports(store, replace(settings, report_max_entries=4))
    book(store, NOW, {f"/{number}": 1 for number in range(50)})
    book_routed(store, NOW, [("/x", f"/<{number}>", 1) for number in range(4)])
    assert len(reports.page(Query(group="route")).routes) == 4
    book_routed(store, NOW, [("/x", "/<more>", 1)])
    with pytest.raises(QueryError, match="asks for too much") as caught:
        reports.page(Query(group="route"))
    assert caught.value.parameter == "group"


def test_a_ledger_without_routes(store: LedgerStore, settings: Settings) -> None:
    """Where nobody told any route, there are no rows, and all requests have none."""
    book(store, NOW, {"/a": 3, "(unmatched)": 2})
    page = Reports(store, settings).page(Query(group="route"))
    assert (page.flat, page.lines, page.total_requests) == ([], {NO_ROUTE: 5, OVERFLOW: 0}, 5)
    assert (page.total_routes, page.total_urls) == (0, 1)


def test_what_is_no_template_breaks_no_row(store: LedgerStore, settings: Settings) -> None:
    """Spaces, line ends and foreign letters that somebody wrote into a journal as a route are shown encoded."""
    book_routed(store, NOW, [("/x", "/a b\n/<é>", 2), ("/x", "/%20", 1)])
    assert Reports(store, settings).page(Query(group="route")).routes == [
        RouteRow("/a%20b%0A/<%C3%A9>", 2),
        RouteRow("/%20", 1),
    ]


@pytest.mark.parametrize(
    ("parameters", "named"),
    [({"prefix": "/a/"}, "prefix"), ({"search": "a"}, "search"), ({"under": "/a/"}, "under")],
)
def test_what_goes_by_url_does_not_go_by_route(parameters: dict[str, str], named: str) -> None:
    """Filters of URLs are refused by name beside group=route."""
    with pytest.raises(QueryError) as caught:
        Query.read({"group": "route", **parameters})
    assert caught.value.parameter == named


@pytest.mark.parametrize("in_order", [True, False])
def test_all_rows_add_up_to_all_requests(store: LedgerStore, settings: Settings, *, in_order: bool) -> None:
    """An export of routes has what is under none in its place, and goes on behind any row, that one too."""
    book_routed(store, NOW, [("/x", "/<a>", 2), ("/y", "/<b>", 9), ("/z", None, 4), ("/z", "/<c>", 4)])
    reports = Reports(store, settings)
    query = Query(group="route")
    rows = [row for flat in reports.rows(query, in_order=in_order) for row in routes_of(flat)]
    assert rows == [("/<b>", 9), ("/<c>", 4), (NO_ROUTE, 4), ("/<a>", 2)]
    assert sum(row.requests for row in rows) == store.totals().requests
    for number, place in enumerate(rows, 1):
        behind = (place.requests, place.route)
        rest = [row for flat in reports.rows(query, behind, in_order=in_order) for row in routes_of(flat)]
        assert rest == rows[number:]


@pytest.mark.usefixtures("one_hour")
def test_routes_in_python(store: LedgerStore, settings: Settings) -> None:
    """`Ledger.routes` has the rows of a time; the methods for other rows say where these are."""
    now = datetime.now(UTC)
    book_routed(store, now, [("/x", "/<a>", 2), ("/y", "/<b>", 3), ("/z", None, 4)])
    book_routed(store, now - timedelta(hours=30), [("/x", "/<a>", 5)])
    assert settings.redis_url
    with Ledger(settings.redis_url, key_prefix=settings.key_prefix) as reader:
        assert list(reader.routes()) == [("/<a>", 7), (NO_ROUTE, 4), ("/<b>", 3)]
        assert list(reader.routes(period="hour")) == [(NO_ROUTE, 4), ("/<b>", 3), ("/<a>", 2)]
        assert reader.page(group="route").lines == {NO_ROUTE: 4, OVERFLOW: 0}
        for method in (reader.rows, reader.sections):
            with pytest.raises(QueryError, match=r"Ledger\.routes"):
                next(iter(method(group="route")))
        with pytest.raises(QueryError, match=r"Ledger\.sections"):
            next(reader.routes(group="2"))
