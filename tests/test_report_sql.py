"""Every kind of report against the same question asked of SQLite, over the same raw hits."""

from __future__ import annotations

import itertools
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from hitledger.ledger import LedgerStore
from hitledger.periods import Period
from hitledger.report import Query, Reports, build, snapshot, source, union
from hitledger.report.merge import first_slices, merge
from hitledger.report.union import TooDeepError, UnionSource
from hitledger.settings import Settings
from tests.report_support import book

# Real time, because the server expires what is old by its own clock.
NOW = datetime.now(UTC).replace(minute=15, second=0, microsecond=0)
HOURS_BACK = 40
_prefixes = itertools.count()

SEGMENTS = ("a", "b", "product", "-1", "")
Raw = list[tuple[str, int, int]]
"""Hits: URL, hours ago, number."""


def random_hits(seed: int) -> Raw:
    """Return up to some hundreds of hits, some hours and URLs with more of them than others."""
    random = Random(seed)
    hours = [random.randint(0, HOURS_BACK) for _ in range(random.choice([1, 3, 12]))]
    found = []
    for _ in range(random.choice([0, 3, 40, 300])):
        segments = random.choices(SEGMENTS, k=min(4, int(random.expovariate(0.4))))
        found.append(("/" + "/".join(segments), random.choice(hours), random.choice([1, 1, 1, 2, 7])))
    return found


hits = st.integers(0, 2**32).map(random_hits)
prefixes = st.sampled_from(["", "/a", "/a/", "/product/", "/a//", "/b/a", "/none/"])
ranges = st.tuples(st.integers(0, HOURS_BACK + 1), st.integers(0, HOURS_BACK)).map(
    lambda pair: (max(pair), min(pair)) if pair[0] != pair[1] else (pair[0] + 1, pair[1])
)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read and keep so little at a time that every report crosses the borders of pieces."""
    for module in (source, build, snapshot):
        monkeypatch.setattr(module, "STREAM_ROWS", 3)
    monkeypatch.setattr(build, "MOST_IN_MEMORY", 4)
    monkeypatch.setattr(union, "PIECE_ROWS", 2)
    monkeypatch.setattr(union, "SPARE_ROWS", 0)


few = examples(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@dataclass(frozen=True)
class Asked:
    """The two that are asked: the reports under test, and SQLite."""

    store: LedgerStore
    reports: Reports
    sql: sqlite3.Connection

    def all_rows(self, query: Query) -> list[tuple[object, ...]]:
        """Return all rows of a query by way of its pages, each of which must fit the next."""
        found: list[tuple[object, ...]] = []
        while True:
            page = self.reports.page(query)
            found += page.rows if page.width == 2 else page.sections
            if page.cursor is None:
                return found
            query = replace(query, cursor=page.cursor)

    def streamed(self, query: Query, behind: tuple[int, str] | None = None, *, in_order: bool) -> list[tuple[str, int]]:
        """Return all rows of a query behind a place, as a stream has them."""
        pieces = self.reports.rows(query, behind, in_order=in_order)
        return [row for flat in pieces for row in zip(flat[::2], map(int, flat[1::2]), strict=True)]

    def expected(self, where: str, *values: object) -> list[tuple[object, ...]]:
        """Return URLs and hits as SQLite has them."""
        text = f"SELECT url, SUM(n) FROM hits WHERE {where} GROUP BY url ORDER BY SUM(n) DESC, url DESC"
        return self.sql.execute(text, values).fetchall()


def section_at(url: str, depth: int) -> str:
    """Return a URL's section, in another way than the code under test."""
    found = re.match(rf"(?:[^/]*/){{{depth + 1}}}", url)
    return found[0] if found else url


@contextmanager
def asked(settings: Settings, shards: int, raw: Raw) -> Iterator[Asked]:
    """Book raw hits, (URL, hours ago, number), in both."""
    # One ledger in two keeps its sections: it must say the same.
    number = next(_prefixes)
    settings = replace(
        settings, shards=shards, key_prefix=f"{settings.key_prefix}-{number}", keep_sections=number % 2 == 0
    )
    with closing(LedgerStore(settings)) as store, closing(sqlite3.connect(":memory:")) as sql:
        sql.create_function("section", 2, section_at, deterministic=True)
        sql.execute("CREATE TABLE hits (url TEXT, at TEXT, n INTEGER)")
        by_hour: dict[datetime, Counter[str]] = {}
        for url, ago, number in raw:
            when = NOW - timedelta(hours=ago)
            by_hour.setdefault(when, Counter())[url] += number
            sql.execute("INSERT INTO hits VALUES (?, ?, ?)", (url, when.isoformat(), number))
        for when, counts in by_hour.items():
            book(store, when, counts)
        yield Asked(store, Reports(store, settings, lambda: NOW), sql)


@pytest.mark.slow
@few
@given(hits, st.sampled_from([1, 3]), ranges, prefixes, st.integers(1, 70))
def test_windows_and_prefixes(
    settings: Settings, raw: Raw, shards: int, back: tuple[int, int], prefix: str, limit: int
) -> None:
    """Any whole hours, and any prefix in them, have the rows and totals that SQLite has."""
    start, end = ((NOW - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:00Z") for hours in back)
    between = "at >= ? AND at < ?"
    times = (start.replace("Z", "+00:00").replace("T", "T"), end.replace("Z", "+00:00"))
    with asked(settings, shards, raw) as both:
        query = Query(start=start, end=end, prefix=prefix, limit=limit)
        expected = both.expected(f"{between} AND url GLOB ? || '*'", *times, prefix)
        assert both.all_rows(query) == expected
        page = both.reports.page(query)
        total = sum(int(str(hits)) for _, hits in both.expected(between, *times))
        assert page.total_requests == total
        if prefix:
            assert page.section
            sums = (page.section.requests, page.section.urls)
            assert sums == (sum(hits for _, hits in expected), len(expected))  # type: ignore[misc]
        else:
            assert page.total_urls == len(expected)


@pytest.mark.slow
@few
@given(hits, st.sampled_from([1, 3]), st.sampled_from(["hour", "day", "month"]), st.integers(0, HOURS_BACK), prefixes)
def test_single_periods(settings: Settings, raw: Raw, shards: int, kind: str, ago: int, prefix: str) -> None:
    """An hour, day or month of UTC has the rows that SQLite has."""
    at = (NOW - timedelta(hours=ago)).isoformat()
    digits = {"hour": 13, "day": 10, "month": 7}[kind]
    with asked(settings, shards, raw) as both:
        query = Query(period=kind, at=at, prefix=prefix, limit=7)
        expected = both.expected("substr(at, 1, ?) = ? AND url GLOB ? || '*'", digits, at[:digits], prefix)
        assert both.all_rows(query) == expected


@pytest.mark.slow
@few
@given(hits, st.sampled_from(["America/New_York", "Asia/Tokyo", "Europe/Berlin"]), st.integers(0, 1))
def test_days_of_a_zone(settings: Settings, raw: Raw, zone: str, days: int) -> None:
    """A day of a zone that is whole hours away from UTC has the hits from its midnight to the next."""
    local = NOW.astimezone(ZoneInfo(zone)) - timedelta(days=days)
    start = local.replace(hour=0, minute=0)
    after = (start + timedelta(days=1)).astimezone(UTC)
    with asked(settings, 3, raw) as both:
        query = Query(period="day", at=local.strftime("%Y-%m-%d"), tz=zone, limit=9)
        times = (start.astimezone(UTC).isoformat(), after.isoformat())
        assert both.all_rows(query) == both.expected("at >= ? AND at < ?", *times)


@few
@given(raw=hits, shards=st.sampled_from([1, 3]), depth=st.integers(1, 4), prefix=prefixes, recent=st.booleans())
def test_sections(settings: Settings, raw: Raw, shards: int, depth: int, prefix: str, *, recent: bool) -> None:
    """Sections at any depth, below any prefix, over all time or some hours, have SQLite's sums."""
    start = (NOW - timedelta(hours=3)).strftime("%Y-%m-%dT%H:00")
    text = (
        "SELECT section(url, ?), SUM(n), COUNT(DISTINCT url) FROM hits WHERE url GLOB ? || '*' AND at >= ?"
        " GROUP BY 1 ORDER BY 2 DESC, 1 DESC"
    )
    with asked(settings, shards, raw) as both:
        query = Query(group=depth, prefix=prefix, limit=3, start=start if recent else None)
        expected = both.sql.execute(text, (depth, prefix, start if recent else "")).fetchall()
        assert both.all_rows(query) == expected
        assert both.reports.page(query).total_sections == len(expected)


@pytest.mark.slow
@few
@given(hits, st.sampled_from([1, 3]), st.sampled_from(["/", "/a/", "/a//", "/product/", "/b/a/", "/-1/"]))
def test_walking_down_the_tree(settings: Settings, raw: Raw, shards: int, section: str) -> None:
    """A section's children, its total and its URLs are SQLite's, where sections are kept and where they are not."""
    text = (
        "SELECT section(url, ?), SUM(n), COUNT(DISTINCT url) FROM hits WHERE url GLOB ? || '*'"
        " GROUP BY 1 ORDER BY 2 DESC, 1 DESC"
    )
    for _ in range(2):
        with asked(settings, shards, raw) as both:
            query = Query.read({"under": section, "limit": "3"})
            assert both.all_rows(query) == both.sql.execute(text, (section.count("/"), section)).fetchall()
            expected = both.expected("url GLOB ? || '*'", section)
            for page in (both.reports.page(query), both.reports.page(Query(prefix=section))):
                assert page.section
                sums = (page.section.requests, page.section.urls)
                assert sums == (sum(hits for _, hits in expected), len(expected))  # type: ignore[misc]
            assert both.all_rows(Query(prefix=section, limit=5)) == expected


@pytest.mark.slow
@few
@given(hits, st.sampled_from([1, 3]), st.sampled_from(["a", "/b", "duct/", "-", "none"]), prefixes)
def test_searches(settings: Settings, raw: Raw, shards: int, text: str, prefix: str) -> None:
    """A search has the URLs that contain its text, in order."""
    with asked(settings, shards, raw) as both:
        expected = both.expected("instr(url, ?) > 0 AND url GLOB ? || '*'", text, prefix)
        assert both.all_rows(Query(search=text, prefix=prefix, limit=4)) == expected


@few
@given(hits, st.sampled_from([1, 3]), prefixes, st.sampled_from([1, 3, 8, 30]))
def test_all_rows_from_any_place(settings: Settings, raw: Raw, shards: int, prefix: str, done: int) -> None:
    """All rows come in order, or part by part; behind a row come those that had not come before it."""
    with asked(settings, shards, raw) as both:
        expected = both.expected("url GLOB ? || '*'", prefix)
        for in_order in (True, False):
            everything = both.streamed(Query(prefix=prefix), in_order=in_order)
            assert (everything if in_order else sorted(everything)) == (expected if in_order else sorted(expected))
            for url, number in everything[done - 1 : done]:
                rest = both.streamed(Query(prefix=prefix), (number, url), in_order=in_order)
                assert rest == everything[done:]


@few
@given(hits, st.sampled_from([1, 3]), ranges, st.integers(1, 20), st.integers(0, 20))
def test_the_top_of_several_hours(
    settings: Settings, raw: Raw, shards: int, back: tuple[int, int], count: int, skipped: int
) -> None:
    """The rows found from the top, behind any place, are those that adding all hours up would give."""
    start, end = (NOW.replace(minute=0) - timedelta(hours=hours) for hours in back)
    with asked(settings, shards, raw) as both:
        expected = both.expected("at >= ? AND at < ?", start.isoformat(), end.isoformat())
        behind = expected[skipped - 1][::-1] if 0 < skipped <= len(expected) else None
        rows = expected[skipped:] if behind else expected
        hours = [Period("hour", start + timedelta(hours=hour)) for hour in range(back[0] - back[1])]
        top = UnionSource(both.store, hours)
        slices = first_slices(top.parts, behind, count)  # type: ignore[arg-type]
        flat = merge(top, slices, top.read(slices), count)
        assert [(url, int(number)) for url, number in zip(flat[::2], flat[1::2], strict=True)][:count] == rows[:count]


def test_too_deep_a_page_is_given_up(settings: Settings) -> None:
    """Many equal counts are not read one by one to find a page."""
    raw = [(f"/{number}", ago, 1) for number in range(40) for ago in (1, 2)]
    with asked(settings, 1, raw) as both:
        hours = [Period.containing("hour", NOW - timedelta(hours=ago)) for ago in (2, 1)]
        with pytest.raises(TooDeepError):
            UnionSource(both.store, hours, 60).read(first_slices(1, None, 20))


def test_equal_counts_may_wait_further_down(settings: Settings) -> None:
    """A URL that is not met yet, and may have as many hits as one that is, may stand before it."""
    hours = {2: {"/a": 5, "/p": 3, "/k": 3}, 1: {"/r": 3, "/q": 3, "/k": 3, "/a": 1}}
    raw = [(url, ago, number) for ago, counts in hours.items() for url, number in counts.items()]
    with asked(settings, 1, raw) as both:
        periods = [Period.containing("hour", NOW - timedelta(hours=ago)) for ago in hours]
        assert UnionSource(both.store, periods).read(first_slices(1, None, 2)) == [["/k", "6", "/a", "6"]]
        assert UnionSource(both.store, periods).read(first_slices(1, None, 1)) == [["/k", "6"]]
