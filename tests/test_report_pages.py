"""Ordered pages: `hitledger.report.reports`, `.merge`, `.cursor` and the Lua script behind them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from hitledger.entries import shard_of
from hitledger.errors import LedgerUnavailableError, QueryError
from hitledger.ledger import LedgerStore
from hitledger.report import Query, Reports, Row
from hitledger.report.cursor import decode_cursor, encode_cursor
from hitledger.report.merge import stream
from hitledger.report.source import LiveSource
from hitledger.settings import Settings
from tests.report_support import book, with_shards

NOW = datetime(2026, 11, 23, 22, 15, tzinfo=UTC)
TIES = {f"/api/{number:03d}/": 1 + (number % 7 == 0) * number for number in range(300)}


@pytest.fixture(params=[1, 5])
def store(settings: Settings, request: pytest.FixtureRequest) -> Iterator[LedgerStore]:
    """A ledger of one shard, and one of five."""
    with closing(LedgerStore(with_shards(settings, request.param))) as store:
        yield store


def in_order(counts: dict[str, int]) -> list[Row]:
    """Return the rows that a report over these counts must have."""
    return sorted(
        (Row(url, hits) for url, hits in counts.items()), key=lambda row: (row.requests, row.url), reverse=True
    )


def walk(reports: Reports, limit: int) -> list[list[Row]]:
    """Return all pages, each found by the cursor of the one before."""
    pages, cursor = [], None
    while True:
        page = reports.page(Query(limit=limit, cursor=cursor))
        pages.append(page.rows)
        cursor = page.cursor
        if cursor is None:
            return pages


def test_rows_are_ordered_by_requests_then_url(store: LedgerStore, settings: Settings) -> None:
    """The first page holds the most requested URLs; equal counts stand by URL, downwards."""
    book(store, NOW, TIES)
    assert Reports(store, settings).page(Query(limit=50)).rows == in_order(TIES)[:50]


@pytest.mark.parametrize("limit", [1, 7, 150, 299, 300, 301, 10_000])
def test_cursors_lead_through_all_rows(store: LedgerStore, settings: Settings, limit: int) -> None:
    """The pages, put together, are all rows once, each page full but the last, which has no cursor."""
    book(store, NOW, TIES)
    pages = walk(Reports(store, settings), limit)
    assert [row for page in pages for row in page] == in_order(TIES)
    assert all(len(page) == limit for page in pages[:-1])


def test_totals_stand_beside_the_rows(store: LedgerStore, settings: Settings) -> None:
    """Totals count every request, those on lines included; lines are no URLs."""
    book(store, NOW, {"/a": 3, "/b": 2, "(unmatched)": 4})
    page = Reports(store, settings, lambda: NOW).page()
    assert (page.total_requests, page.total_urls, page.other) == (9, 2, {"(unmatched)": 4})
    assert page.as_of == NOW


def test_an_empty_ledger_has_an_empty_page(store: LedgerStore, settings: Settings) -> None:
    """Nothing counted is no error."""
    page = Reports(store, settings).page()
    assert (page.rows, page.cursor, page.total_requests, page.total_urls) == ([], None, 0, 0)


def test_a_place_may_be_gone(store: LedgerStore, settings: Settings) -> None:
    """A cursor continues where its URL stood, although that URL has moved up since."""
    book(store, NOW, TIES)
    reports = Reports(store, settings)
    first = reports.page(Query(limit=100))
    last = first.rows[-1].url
    book(store, NOW, {last: 1000})
    assert reports.page(Query(limit=100, cursor=first.cursor)).rows == in_order(TIES)[100:200]


def test_urls_that_stand_still_are_shown_once(store: LedgerStore, settings: Settings) -> None:
    """While others move between pages, no URL that stands still is missed or shown twice."""
    book(store, NOW, TIES)
    reports = Reports(store, settings)
    moving = {url for index, url in enumerate(sorted(TIES)) if index % 3 == 0}
    seen: list[str] = []
    cursor = None
    while True:
        page = reports.page(Query(limit=20, cursor=cursor))
        seen += [row.url for row in page.rows]
        book(store, NOW, dict.fromkeys(moving, 5))
        cursor = page.cursor
        if cursor is None:
            break
    still = [url for url in seen if url not in moving]
    assert sorted(still) == sorted(set(TIES) - moving)


@examples(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.integers(0, 290),
    st.integers(1, 60),
    st.lists(st.tuples(st.sampled_from([*TIES, "/~new", "/!new"]), st.integers(1, 50)), max_size=40),
    st.lists(st.sampled_from(sorted(TIES)), max_size=40),
    st.lists(st.integers(0, 2**32 - 1), min_size=5, max_size=5),
)
def test_what_a_cursor_remembers_of_ranks_changes_no_row(
    settings: Settings, start: int, limit: int, hits: list[tuple[str, int]], gone: list[str], forged: list[int]
) -> None:
    """However URLs have moved, come and gone since, and whatever ranks are told: rows are those behind the place."""
    for shards in (1, 5):
        with closing(LedgerStore(with_shards(settings, shards))) as store:
            for key in store.reader(0).scan_iter(f"{settings.key_prefix}:*"):
                store.reader(0).delete(key)
            book(store, NOW, TIES)
            reports = Reports(store, settings)
            cursor = reports.page(Query(limit=start + 1)).cursor
            assert cursor is not None
            place, ranks = decode_cursor(cursor, f"{store.identity.id} ")
            assert sum(ranks) == start + 1
            book(store, NOW, dict(hits))
            for url in gone:
                shard = shard_of(url, shards)
                store.reader(shard).zrem(store.set_key(shard), url)
            pages = [
                reports.page(Query(limit=limit, cursor=encode_cursor(place, f"{store.identity.id} ", each)))
                for each in ((), ranks, forged[:shards])
            ]
            assert pages[0].rows == pages[1].rows == pages[2].rows


def test_a_page_is_found_where_it_was(store: LedgerStore, settings: Settings) -> None:
    """A page behind a cursor searches for its rows only where ranks have shifted."""
    counts = {f"/{number:04}": 1 for number in range(1000)}
    book(store, NOW, counts)
    reports, client = Reports(store, settings), store.reader(0)
    first = reports.page(Query(limit=400))

    def searches() -> int:
        before = client.info("commandstats").get("cmdstat_zcount", {"calls": 0})["calls"]
        assert reports.page(Query(limit=100, cursor=first.cursor)).rows == in_order(counts)[400:500]
        return int(client.info("commandstats").get("cmdstat_zcount", {"calls": 0})["calls"] - before)

    assert searches() == 0
    book(store, NOW, dict.fromkeys(list(counts)[:150], 5))
    assert searches() > 0


def test_one_shard_may_have_all_that_is_hot(store: LedgerStore, settings: Settings) -> None:
    """A page has the right rows, however unevenly they lie over the shards."""
    counts = {f"/{number:03}": 1 for number in range(500)}
    hot = [url for url in counts if shard_of(url, store.identity.shards) == 0]
    counts |= dict.fromkeys(hot, 9)
    book(store, NOW, counts)
    assert Reports(store, settings).page(Query(limit=90)).rows == in_order(counts)[:90]
    flat = [text for piece in stream(LiveSource(store)) for text in piece]
    assert flat[::2] == [url for url, _ in in_order(counts)]


@pytest.mark.parametrize(
    "cursor", ["", "x", "garbage", "AAAA", "é", "a" * 1000, "=", "AAAAAAAAAAAAMTIgL2E", "a" * 200_000]
)
def test_garbage_is_no_cursor(store: LedgerStore, settings: Settings, cursor: str) -> None:
    """What this service did not give out is refused, and named."""
    with pytest.raises(QueryError) as caught:
        Reports(store, settings).page(Query(limit=10, cursor=cursor))
    assert caught.value.parameter == "cursor"


def test_a_cursor_of_another_ledger_is_refused(store: LedgerStore, settings: Settings) -> None:
    """A cursor is bound to its ledger."""
    cursor = encode_cursor((3, "/a"), "another ledger period=all")
    with pytest.raises(QueryError, match="another query or another ledger"):
        Reports(store, settings).page(Query(limit=10, cursor=cursor))


@given(
    st.integers(0, 2**53),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1),
    st.text(),
    st.lists(st.integers(0, 2**32 - 1), max_size=64),
)
def test_cursors_come_back(hits: int, url: str, subject: str, ranks: list[int]) -> None:
    """A cursor names the place it was made for and the ranks that it had, and no other subject takes it."""
    cursor = encode_cursor((hits, url), subject, ranks)
    assert decode_cursor(cursor, subject) == ((hits, url), tuple(ranks))
    with pytest.raises(QueryError):
        decode_cursor(cursor, subject + "x")


@pytest.mark.slow
@examples(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(st.text("ab/", min_size=1, max_size=6), st.integers(1, 4), max_size=40),
    st.integers(0, 41),
)
def test_every_place_continues_in_order(settings: Settings, counts: dict[str, int], start: int) -> None:
    """From any place, taken or not, all later rows follow in order, whatever the number of shards."""
    place = (2, "/" * start) if start > len(counts) else (in_order(counts) or [Row("/", 1)])[start - 1][::-1]
    expected = [row for row in in_order(counts) if (row.requests, row.url) < place]
    for shards in (1, 3):
        with closing(LedgerStore(with_shards(settings, shards))) as store:
            for key in store.reader(0).scan_iter(f"{settings.key_prefix}:*"):
                store.reader(0).delete(key)
            book(store, NOW, counts)
            flat = [text for piece in stream(LiveSource(store), place) for text in piece]
            assert [Row(url, int(hits)) for url, hits in zip(flat[::2], flat[1::2], strict=True)] == expected


def test_a_ledger_that_is_away_says_so(settings: Settings) -> None:
    """Without a ledger there is no report, and the error says that later may help."""
    away = LedgerStore(Settings(redis_url=f"unix://{settings.data_dir}/none.sock"))
    with pytest.raises(LedgerUnavailableError):
        Reports(away, settings).page()


def test_a_search_stops_in_time(store: LedgerStore, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its time is up it says so, and `next` goes on until every URL that contains the text was shown once."""
    monkeypatch.setattr("hitledger.report.reports.SEARCH_SECONDS", 0)
    monkeypatch.setattr("hitledger.report.snapshot.STREAM_ROWS", 20)
    book(store, NOW, TIES)
    reports, found, cursor, stops = Reports(store, settings), list[Row](), None, 0
    while True:
        page = reports.page(Query(search="3", limit=9, cursor=cursor))
        found += page.rows
        stops += not page.complete
        cursor = page.cursor
        if cursor is None:
            break
        assert len(page.rows) <= 9
    assert stops > 5
    assert found == [row for row in in_order(TIES) if "3" in row.url]


def test_a_series_has_so_many_periods_at_most(store: LedgerStore, settings: Settings) -> None:
    """Two thousand are told; whoever asks for more is told which parameter asks for them."""
    reports = Reports(store, replace(settings, retention_hours=5000), lambda: NOW)
    for hours, refused in ((1999, False), (2000, True)):
        asked = Query(start=(NOW - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:00Z"))
        for report in (partial(reports.history, "hour"), partial(reports.url, "/x", "hour")):
            if refused:
                with pytest.raises(QueryError, match="more than 2,000 hours") as caught:
                    report(asked)
                assert caught.value.parameter == "from"
            else:
                assert len(report(asked).series) == 2000
