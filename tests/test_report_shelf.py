"""Added-up reports on disk: built once, shown while they are new enough, bounded in all directions."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hitledger.errors import LedgerError, QueryError, ReportBusyError
from hitledger.ledger import LedgerStore
from hitledger.report import Query, Reports, shelf
from hitledger.report.build import Builder
from hitledger.report.snapshot import Head
from hitledger.settings import Settings
from tests.report_support import book
from tests.support import wait_until

NOW = datetime.now(UTC)
BELOW = Query(prefix="/a/")
COUNTS = {f"/a/{number}": number for number in range(1, 30)} | {"/b": 5}


class Bench:
    """A store with counts, reports over it whose clock is set by hand, and a count of what was built."""

    def __init__(self, store: LedgerStore, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = store
        self.settings = settings
        self.now = NOW
        self.built = 0
        self.may_build = threading.Event()
        self.may_build.set()
        book(store, NOW, COUNTS)
        building = Builder.build

        def build(builder: Builder, most_entries: int) -> Head:
            self.built += 1
            assert self.may_build.wait(20)
            return building(builder, most_entries)

        monkeypatch.setattr(Builder, "build", build)

    def reports(self, **changed: Any) -> Reports:
        """Return reports as another process of the host would have them."""
        return Reports(self.store, replace(self.settings, **changed), lambda: self.now)

    @property
    def files(self) -> list[Path]:
        """The snapshots that are kept."""
        return sorted((self.settings.data_dir / "reports").glob("*.report"))

    @contextmanager
    def held_up(self) -> Iterator[None]:
        """Let no build come to its end within."""
        self.may_build.clear()
        try:
            yield
        finally:
            self.may_build.set()


@pytest.fixture
def bench(store: LedgerStore, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench whose reports all count as large ones."""
    monkeypatch.setattr(shelf, "SMALL_ENTRIES", 0)
    return Bench(store, settings, monkeypatch)


def test_a_report_is_added_up_once(bench: Bench) -> None:
    """A second reader, in whichever process, has what is there as long as nothing has changed."""
    first = bench.reports().page(BELOW)
    bench.now += timedelta(minutes=30)
    second = bench.reports().page(BELOW)
    assert bench.built == 1
    assert second.rows == first.rows
    assert (first.as_of, second.as_of) == (NOW.replace(microsecond=NOW.microsecond // 1000 * 1000), bench.now)


def test_what_has_changed_is_added_up_again(bench: Bench) -> None:
    """A report that took no time to add up always has the latest hits."""
    reports = bench.reports()
    reports.page(BELOW)
    book(bench.store, NOW, {"/a/1": 100})
    assert reports.page(BELOW).rows[0] == ("/a/1", 101)
    assert bench.built == 2


def test_a_slow_report_is_shown_for_a_while(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What took long is shown for ten times as long, and says of when it is; then it is added up anew."""
    monkeypatch.setattr(shelf, "SLOW_SECONDS", 0)
    monkeypatch.setattr(shelf, "SHOWN_TIMES", 1e9)
    reports = bench.reports()
    first = reports.page(BELOW)
    book(bench.store, NOW, {"/a/1": 100})
    bench.now += timedelta(seconds=60)
    again = reports.page(BELOW)
    assert (again.rows, again.as_of, bench.built) == (first.rows, first.as_of, 1)
    monkeypatch.setattr(shelf, "SHOWN_TIMES", 0)
    assert reports.page(BELOW).rows[0] == ("/a/1", 101)


def test_many_readers_wait_for_one(bench: Bench) -> None:
    """However many ask at the same time, in two processes too, one adds up and all have it."""
    one, other = bench.reports(), bench.reports()
    with ThreadPoolExecutor(6) as threads:
        with bench.held_up():
            waiting = [threads.submit((one, other)[number % 2].page, BELOW) for number in range(6)]
            wait_until(lambda: bench.built)
        pages = [each.result().rows for each in waiting]
    assert bench.built == 1
    assert all(page == pages[0] for page in pages)


def test_who_has_waited_long_enough_is_told_so(bench: Bench) -> None:
    """A request does not wait longer than the settings say; the work goes on, and the next one has it."""
    with bench.held_up():
        with pytest.raises(ReportBusyError, match="being added up") as caught:
            bench.reports(report_wait_seconds=0).page(BELOW)
        assert caught.value.retry_seconds > 0
    assert wait_until(lambda: bench.files)
    assert len(bench.reports().page(BELOW).rows) == 29
    assert bench.built == 1


def test_only_so_many_wait(bench: Bench) -> None:
    """A quarter of the threads may wait for reports, and a few reports be under way; more are told at once."""
    reports = bench.reports(threads=4)
    with ThreadPoolExecutor(1) as threads:
        with bench.held_up():
            waiting = threads.submit(reports.page, BELOW)
            wait_until(lambda: bench.built)
            for number in range(1, 9):
                with pytest.raises(ReportBusyError, match="Other reports"):
                    reports.page(Query(prefix=f"/a/{number}"))
        assert len(waiting.result().rows) == 29
    wait_until(lambda: len(bench.files) == shelf.MOST_BUILDS)


def test_small_reports_do_not_queue(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a large report holds the host's turn, a small one is added up beside it."""
    reports = bench.reports(report_wait_seconds=0)
    with bench.held_up():
        with pytest.raises(ReportBusyError):
            reports.page(BELOW)
        wait_until(lambda: bench.built)
        monkeypatch.setattr(shelf, "SMALL_ENTRIES", 1000)
        bench.may_build.set()
        assert reports.page(Query(prefix="/b")).rows == [("/b", 5)]


def test_small_reports_take_turns(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of small ones a process adds up one at a time; a quarter of its threads may wait, and more are told at once."""
    monkeypatch.setattr(shelf, "SMALL_ENTRIES", 1000)
    reports = bench.reports(threads=8)
    with ThreadPoolExecutor(2) as threads:
        with bench.held_up():
            waiting = [threads.submit(reports.page, Query(prefix=f"/a/{number}")) for number in (1, 2)]
            wait_until(lambda: bench.built)
            assert wait_until(lambda: not reports._shelf.turns._places._value)
            with pytest.raises(ReportBusyError, match="Other reports") as caught:
                reports.page(BELOW)
            assert bench.built == 1
        assert [len(each.result().rows) for each in waiting] == [11, 11]
    assert caught.value.retry_seconds == 1
    assert len(reports.page(BELOW).rows) == 29


def test_work_on_reports_keeps_nobody_elses_pages(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a report is worked on, searches and tops of several hours wait for it; pages that are there do not."""
    for ago in (4, 5):
        book(bench.store, NOW - timedelta(hours=ago), COUNTS)
    start, end = (f"{NOW - timedelta(hours=ago):%Y-%m-%dT%H}:00Z" for ago in (5, 3))
    reports = bench.reports(threads=4)
    reports.page(BELOW)
    with ThreadPoolExecutor(1) as threads:
        with bench.held_up():
            monkeypatch.setattr(shelf, "SMALL_ENTRIES", 1000)
            waiting = threads.submit(reports.page, Query(prefix="/b"))
            wait_until(lambda: bench.built == 2)
            monkeypatch.setattr(shelf, "SMALL_ENTRIES", 0)
            for query in (replace(BELOW, search="1"), Query(start=start, end=end)):
                with pytest.raises(ReportBusyError, match="Other reports"):
                    reports.page(query)
            assert len(reports.page(BELOW).rows) == 29
            assert len(reports.page().rows) == 30
        assert waiting.result().rows == [("/b", 15)]
    assert len(reports.page(replace(BELOW, search="1")).rows) == 12
    assert len(reports.page(Query(start=start, end=end)).rows) == 30


def test_what_was_kept_before_a_reset_is_not_shown(bench: Bench) -> None:
    """With as many requests as before it, but others, a report is added up anew."""
    reports = bench.reports()
    assert len(reports.page(BELOW).rows) == 29
    bench.store.reset()
    book(bench.store, NOW, {"/a/other": sum(COUNTS.values())})
    assert reports.page(BELOW).rows == [("/a/other", sum(COUNTS.values()))]


def test_several_hours_have_a_first_page_at_once(bench: Bench) -> None:
    """The first page of several periods does not wait; how many URLs there are is known when all is added up."""
    start, end = NOW - timedelta(hours=6), NOW - timedelta(hours=3)
    for ago in (4, 5, 6):
        book(bench.store, NOW - timedelta(hours=ago), COUNTS)
    query = Query(limit=5, start=start.strftime("%Y-%m-%dT%H:00Z"), end=end.strftime("%Y-%m-%dT%H:00Z"))
    reports = bench.reports()
    with bench.held_up():
        page = reports.page(query)
        assert page.rows[:2] == [("/a/29", 87), ("/a/28", 84)]
        assert (page.total_urls, page.total_requests) == (None, 3 * sum(COUNTS.values()))
        following = reports.page(replace(query, cursor=page.cursor)).rows
        assert following[0] == ("/a/24", 72)
    wait_until(lambda: bench.files)
    complete = reports.page(query)
    assert (complete.rows, complete.total_urls, complete.cursor) == (page.rows, 30, page.cursor)


def test_too_large_a_report_is_refused_by_name(bench: Bench) -> None:
    """Above the settings' bound a report is refused before it is read, and the parameter named."""
    with pytest.raises(QueryError, match="30 entries") as caught:
        bench.reports(report_max_entries=29).page(BELOW)
    assert caught.value.parameter == "prefix"


def test_a_full_or_missing_disk_is_an_error_of_the_ledgers_kind(bench: Bench) -> None:
    """Where no report can be written, readers are told to come again, and nothing crashes."""
    bench.settings.data_dir.mkdir(parents=True)
    (bench.settings.data_dir / "reports").write_text("no folder")
    with pytest.raises(LedgerError, match="cannot be written"):
        bench.reports().page(BELOW)


def test_the_folder_does_not_grow(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number of bytes the oldest reports go, as do those of long ago and what a crash has left."""
    monkeypatch.setattr(shelf, "TIDY_EVERY", 1)
    reports = bench.reports()
    reports.page(BELOW)
    size = bench.files[0].stat().st_size
    remains = bench.files[0].with_name("building-x")
    remains.write_text("half")
    os.utime(remains, (0, 0))
    small = bench.reports(report_cache_bytes=2 * size + 10)
    for number, prefix in enumerate(["/a/1", "/a/2", "/a/"], 1):
        for file in bench.files:
            os.utime(file, (file.stat().st_mtime - 10 * number,) * 2)
        book(bench.store, NOW, {"/b": 1})
        small.page(Query(prefix=prefix))
    assert sum(file.stat().st_size for file in bench.files) <= 2 * size + 10
    assert not remains.exists()
    bench.now += timedelta(hours=3)
    book(bench.store, NOW, {"/b": 1})
    small.page(Query(prefix="/b"))
    assert len(bench.files) == 1


@pytest.mark.slow
def test_a_large_report_in_a_process_of_its_own(bench: Bench) -> None:
    """What a web process has added up beside it is the same, its errors too."""
    apart = Reports(bench.store, bench.settings, lambda: bench.now, apart=True)
    assert len(apart.page(BELOW).rows) == 29
    assert apart.page(Query(group=1)).sections[0] == ("/a/", sum(COUNTS.values()) - 5, 29)
    bounded = Reports(bench.store, replace(bench.settings, report_max_entries=29), apart=True)
    with pytest.raises(QueryError, match="30 entries"):
        bounded.page(Query(prefix="/a/2"))
    assert bench.built == 0


def test_a_process_that_ends_early_is_an_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process is killed, or cannot be started, readers are told to come again."""
    apart = Reports(bench.store, bench.settings, apart=True)
    for program in ("/bin/false", "/nowhere/python"):
        monkeypatch.setattr("hitledger.report.apart.sys.executable", program)
        with pytest.raises(LedgerError, match="cannot be written"):
            apart.page(BELOW)
