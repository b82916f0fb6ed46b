"""Adding up: tallies that do not fit into memory, sets that grow meanwhile, and what becomes of it on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from hitledger.ledger import LedgerStore
from hitledger.periods import Period
from hitledger.report import build, source
from hitledger.report.build import Builder, CancelledError, Recipe, TooLargeError
from hitledger.report.merge import stream
from hitledger.report.snapshot import Head, Snapshot, new_snapshot
from hitledger.report.source import walk_set
from hitledger.report.tally import SPLIT_WAYS, Tally, part_of
from hitledger.settings import Settings
from tests.report_support import book, with_shards

NOW = datetime.now(UTC)
HOUR = Period.containing("hour", NOW)
EARLIER = [Period("hour", HOUR.start - timedelta(hours=hours)) for hours in (5, 4)]
COUNTS = {f"/{number:02}": 1 + number // 10 for number in range(40)}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read so little at a time that much can happen in between."""
    for module in (source, build):
        monkeypatch.setattr(module, "STREAM_ROWS", 4)


@contextmanager
def disturbed(store: LedgerStore, calls: list[Callable[[], None]]) -> Iterator[None]:
    """Have something done before each reading of rows, the first thing before the second piece."""
    reading, waiting = store.read, iter(calls)

    def read(commands: Any, **options: Any) -> Any:
        if commands[0][1][0] in ("ZRANGE", "ZREVRANGE", "EVALSHA"):
            next(waiting, lambda: None)()
        return reading(commands, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store, "read", read)
        yield


def walked(pieces: Iterator[list[str]]) -> list[tuple[str, int]]:
    """Return rows as URLs and numbers."""
    return [row for flat in pieces for row in zip(flat[::2], map(int, flat[1::2]), strict=True)]


def built(store: LedgerStore, path: Path, *periods: Period) -> dict[str, int]:
    """Add periods up, or all time, and return what the snapshot has, each URL once."""
    head = Builder(store, Recipe(periods), path, lambda: NOW).build(10**9)
    with closing(Snapshot(path)) as snapshot:
        rows = walked(stream(snapshot))
    assert len(dict(rows)) == len(rows) == head.rows
    assert rows == sorted(rows, key=lambda row: (row[1], row[0]), reverse=True)
    return dict(rows)


@pytest.mark.parametrize("keep_latest", [True, False])
def test_a_tally_is_the_same_in_memory_and_in_files(tmp_path: Path, *, keep_latest: bool) -> None:
    """However little fits into memory, names come once, with the sum or the latest, in the part they belong to."""
    random = Random(5)
    expected: Counter[bytes] = Counter()
    with Tally(tmp_path, keep_latest=keep_latest, shards=3, most=50) as tally:
        for _ in range(100):
            names = random.sample([b"/%d" % number for number in range(400)], 20)
            numbers = [random.randint(1, 9) for _ in names]
            tally.note(names, numbers)
            for name, number in zip(names, numbers, strict=True):
                expected[name] = number if keep_latest else expected[name] + number
        tables = list(tally.tables())
    assert len(tables) == SPLIT_WAYS
    assert sum(map(len, tables)) == len(expected)
    for part, table in enumerate(tables):
        assert all(part_of(name, SPLIT_WAYS, 3) == part for name in table)
        assert table.items() <= expected.items()


def test_a_set_at_rest_is_walked_once(store: LedgerStore) -> None:
    """Both ways, from any row on, every row comes once, in order."""
    book(store, NOW, COUNTS)
    rows = sorted(COUNTS.items(), key=lambda row: (row[1], row[0]))
    key = store.set_key(0)
    assert walked(walk_set(store, 0, key, up=True)) == rows
    assert walked(walk_set(store, 0, key)) == rows[::-1]
    for index, (url, hits) in enumerate(rows):
        assert walked(walk_set(store, 0, key, (hits, url), up=True)) == rows[index + 1 :]
        assert walked(walk_set(store, 0, key, (hits, url))) == rows[:index][::-1]


@pytest.mark.parametrize("up", [True, False])
def test_a_walk_among_moving_urls(store: LedgerStore, *, up: bool) -> None:
    """Whatever moves or comes meanwhile, a URL that stands still comes once; on the way up, every other, too."""
    book(store, NOW, COUNTS)
    random = Random(7)
    moving = set(random.sample(sorted(COUNTS), 20))
    calls = [
        lambda: book(store, NOW, {random.choice(sorted(moving)): random.randint(1, 4), f"/new/{random.random()}": 1})
        for _ in range(30)
    ]
    with disturbed(store, calls):
        seen = Counter(url for url, _ in walked(walk_set(store, 0, store.set_key(0), up=up)))
    assert all(seen[url] == 1 for url in set(COUNTS) - moving)
    if up:
        assert set(COUNTS) <= set(seen)
        assert max(seen.values()) > 1  # or this test has tried nothing


def test_all_time_is_added_up_while_it_grows(store: LedgerStore, tmp_path: Path) -> None:
    """Every URL is in the report once, with a count that it had meanwhile."""
    book(store, NOW, COUNTS)
    calls = [lambda: book(store, NOW, dict.fromkeys(["/00", "/11", "/22"], 1)) for _ in range(6)]
    with disturbed(store, calls):
        found = built(store, tmp_path / "x")
    for url, hits in COUNTS.items():
        assert hits <= found[url] <= hits + (6 if url in ("/00", "/11", "/22") else 0)


@pytest.mark.parametrize("changing", [HOUR, EARLIER[1]])
def test_hours_that_change_are_exact(store: LedgerStore, tmp_path: Path, changing: Period) -> None:
    """An hour that runs, and one that gets late hits without end, lose no hit and have none twice."""
    for period in (EARLIER[0], changing):
        book(store, period.start, COUNTS)
    late: Counter[str] = Counter()

    def hit() -> None:
        book(store, changing.start, {"/00": 1, "/39": 2})
        late.update({"/00": 1, "/39": 2})

    with disturbed(store, [hit] * 500):
        found = built(store, tmp_path / "x", EARLIER[0], changing)
    assert late["/00"] > 1
    assert set(found) == set(COUNTS)
    for url, hits in COUNTS.items():
        assert 2 * hits <= found[url] <= 2 * hits + late[url]


def test_one_late_hit_begins_a_report_anew(store: LedgerStore, tmp_path: Path) -> None:
    """A URL that is moved by a late hit, after it was read, is not added up with both counts."""
    for period in EARLIER:
        book(store, period.start, COUNTS)
    # The second hour's pieces are the 14th to the 26th; URLs of two hits stand in the 17th to the 19th.
    for reads, url in enumerate((f"/1{digit}" for digit in range(10)), 16):
        with disturbed(store, [lambda: None] * reads + [lambda url=url: book(store, EARLIER[1].start, {url: 100})]):  # type: ignore[misc]
            found = built(store, tmp_path / "x", *EARLIER)
        assert found[url] in (4, 104)


@pytest.mark.parametrize("shards", [1, 4])
def test_what_does_not_fit_into_memory_is_split(
    settings: Settings, tmp_path: Path, shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Split over files, a report has the same rows, and knows the part of each."""
    monkeypatch.setattr(build, "MOST_IN_MEMORY", 9)
    with closing(LedgerStore(with_shards(settings, shards))) as store:
        for period in EARLIER:
            book(store, period.start, COUNTS)
        assert built(store, tmp_path / "x", *EARLIER) == {url: 2 * hits for url, hits in COUNTS.items()}
        with closing(Snapshot(tmp_path / "x")) as snapshot:
            assert snapshot.parts > shards
            for part in range(snapshot.parts):
                assert all(snapshot.part_of(url) == part for url, _ in walked(snapshot.walk(part, None)))


def test_too_much_is_refused_before_it_is_read(store: LedgerStore, tmp_path: Path) -> None:
    """A report over more entries than are allowed is an error, and leaves no file."""
    book(store, NOW, COUNTS)
    with pytest.raises(TooLargeError, match="40 entries"):
        Builder(store, Recipe(()), tmp_path / "x", lambda: NOW).build(39)
    assert not list(tmp_path.iterdir())


def test_a_cancelled_report_leaves_nothing(store: LedgerStore, tmp_path: Path) -> None:
    """Who is told to stop in the middle leaves no file behind."""
    book(store, NOW, COUNTS)
    builder = Builder(store, Recipe(()), tmp_path / "x", lambda: NOW)
    with disturbed(store, [builder.progress.cancelled.set]), pytest.raises(CancelledError):
        builder.build(10**9)
    assert not list(tmp_path.iterdir())


def test_a_broken_file_is_no_snapshot(tmp_path: Path) -> None:
    """Empty, cut off, or of another version: it is refused, and never half believed."""
    whole = tmp_path / "whole"
    with new_snapshot(whole, 2) as (writer, heads):
        writer.write({b"/a": 3, b"/b": 3, b"/c": 1})
        heads.append(Head("2026-11-24T00:00:00.000Z", ["7"], parts=writer.parts, rows=writer.rows))
    with closing(Snapshot(whole)) as snapshot:
        assert walked(stream(snapshot)) == [("/b", 3), ("/a", 3), ("/c", 1)]
    content = whole.read_bytes()
    for number, broken in enumerate([b"", b"x", content[:-1], content.replace(b'"format"', b'"farmot"')]):
        path = tmp_path / str(number)
        path.write_bytes(broken)
        with pytest.raises((OSError, ValueError)):
            Snapshot(path)
