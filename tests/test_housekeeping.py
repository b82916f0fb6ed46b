"""housekeeping: nothing is deleted too early, and what the ledger forgot behind it is told to the last hit."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hitledger import housekeeping, journal
from hitledger.audit import audit
from hitledger.entries import Watermark
from hitledger.host import Host
from hitledger.housekeeping import CLOSED_SUFFIX, write_durably
from hitledger.journal import NEW_SUFFIX
from hitledger.posting import Poster
from hitledger.settings import Settings
from tests.books import Books
from tests.guarded import start_valkey
from tests.support import wait_until


@pytest.fixture
def books(settings: Settings) -> Iterator[Books]:
    """Books whose files are deleted as soon as they may be."""
    books = Books(replace(settings, journal_hold_seconds=0))
    yield books
    books.close()


def lost(books: Books) -> int:
    """Return the hits that the ledger knows to be lost."""
    marks = books.store.reader(0).hvals(books.store.watermarks_key(0))
    return sum(Watermark.decode(str(mark)).lost for mark in marks)


def close_file(books: Books, *paths: bytes) -> None:
    """Note hits and let their file go its whole way."""
    books.note(*paths)
    books.journal.close()
    books.poster.round()
    books.poster.round()
    assert not books.files()


def test_a_file_is_deleted_only_when_posted_confirmed_and_held(books: Books) -> None:
    """A live writer's file stays; a dead one's goes after the hold, and not before."""
    held = Books(replace(books.settings, journal_hold_seconds=3600))
    books.note(b"/a")
    books.poster.round()
    books.poster.round()
    assert len(books.files()) == 1
    books.journal.close()
    held.poster.round()
    held.poster.round()
    assert len(books.files()) == 1
    books.poster.round()
    books.poster.round()
    assert not books.files()
    assert books.counts() == {"/a": 1}
    held.close()


def test_a_file_is_kept_while_the_ledger_does_not_confirm(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word from the ledger's disk no file goes, however short the hold."""
    monkeypatch.setattr(books.store, "confirm", lambda *_: False)
    books.note(b"/a")
    books.journal.close()
    for _ in range(3):
        books.poster.round()
    assert len(books.files()) == 1


def test_a_confirmation_that_is_old_deletes_nothing(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """A poster that stood still behind the ledger's word asks again: other servers may be in charge by then."""
    monkeypatch.setattr(housekeeping, "CONFIRMED_SECONDS", -1.0)
    books.note(b"/a")
    books.journal.close()
    for _ in range(3):
        books.poster.round()
    assert len(books.files()) == 1
    monkeypatch.undo()
    books.poster.round()
    assert not books.files()


def test_a_crowded_hold_gives_way(settings: Settings) -> None:
    """Posted files beyond the bytes that may be held go before their time, oldest first."""
    books = Books(replace(settings, journal_hold_seconds=3600, journal_hold_bytes=400, journal_file_bytes=4096))
    for _ in range(3):
        books.note(b"/a")
        books.journal.close()

    def one_is_held() -> bool:
        books.poster.round()  # each keeps house for a tenth of a second at most
        return len(books.files()) == 1

    wait_until(one_is_held)
    books.poster.round()
    assert len(books.files()) == 1
    assert books.counts() == {"/a": 3}
    books.close()


def test_what_the_ledger_forgot_of_deleted_files_is_booked_as_lost(books: Books) -> None:
    """A ledger that fell back behind a file that is gone: its hits are lost, counted exactly, once."""
    close_file(books, b"/a", b"/b", b"/b")
    client = books.store.reader(0)
    client.delete(books.store.watermarks_key(0), books.store.set_key(0), books.store.totals_key(0))
    books.store.open()
    books.poster.close()
    fresh = Books(books.settings)
    for _ in range(2):
        fresh.poster.round()
    assert lost(books) == 3
    assert books.counts() == {}
    fresh.close()


def test_flushall_costs_what_is_told_and_no_more(settings: Settings, short_path: Path) -> None:
    """After FLUSHALL by hand, files that are gone are lost to the last hit, and what is held is booked again, once."""
    server = start_valkey(short_path)
    try:
        settings = replace(settings, redis_url=server.url, journal_hold_seconds=0)
        books = Books(settings)
        close_file(books, b"/gone", b"/gone", b"/also-gone")
        held = Books(settings)
        held.note(b"/held", b"/held")
        held.poster.post_now()
        server.client.flushall()
        held.note(b"/new")
        for _ in range(3):
            held.poster.round()
        report = audit(settings, held.store)
        assert held.counts() == {"/held": 2, "/new": 1}
        assert (report.balance["posted"], report.balance["lost"], report.differences) == (3, 3, [])
        books.close()
        held.close()
    finally:
        server.stop()


def test_an_idle_host_notices_that_the_ledger_was_emptied(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was in files that are gone is told as lost to the new ledger, though no hit makes anybody look."""
    monkeypatch.setattr(housekeeping, "HEAL_SECONDS", 0.0)
    close_file(books, b"/a", b"/b")
    client = books.store.reader(0)
    client.delete(*client.scan_iter(f"{books.settings.key_prefix}:*"))
    for _ in range(3):
        books.poster.round()
    assert lost(books) == 2


def test_old_watermarks_are_retired_and_their_files_refused(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal file that comes back after its watermark was forgotten is not booked again."""
    books.note(b"/a", b"/a")
    (path,) = books.files()
    copy = path.read_bytes()
    books.journal.close()
    for _ in range(2):
        books.poster.round()
    monkeypatch.setattr(housekeeping, "KEEP_SECONDS", -60)
    fresh = Books(books.settings)
    fresh.poster.round()
    assert books.store.watermarks([path.stem]) == {path.stem: [None]}
    assert books.store.reader(0).hget(books.store.totals_key(0), "retired") == "2"
    assert not list(books.settings.journal_dir.glob(f"*{CLOSED_SUFFIX}"))
    path.write_bytes(copy)
    fresh.poster.round()
    assert books.counts() == {"/a": 2}
    assert path.with_suffix(".quarantined").exists()
    fresh.close()


def test_losses_and_totals_survive_the_whole_way(books: Books) -> None:
    """Hits that were lost beside a file are known to the ledger after the file is gone."""
    books.note(b"/a")
    books.lose(7)
    close_file(books)
    assert lost(books) == 7


def test_losses_that_a_ledger_forgot_are_told_again_before_a_file_goes(books: Books) -> None:
    """A ledger that was put back and knows of fewer losses, but no fewer hits, hears of them before the file goes."""
    books.note(b"/a")
    books.lose(7)
    books.journal.close()
    books.poster.round()
    (follower,) = books.poster._followers.values()
    assert follower.confirmed_at is not None
    key, name = books.store.watermarks_key(0), follower.name
    mark = Watermark.decode(str(books.store.reader(0).hget(key, name)))
    books.store.reader(0).hset(key, name, replace(mark, lost=3).encode())
    books.poster._look()  # as in the middle of a round, when this file has had its turn
    assert books.poster._housekeeper.keep([follower]) == []
    books.poster.round()
    books.poster.round()
    assert not books.files()
    assert lost(books) == 7


def test_a_stub_that_cannot_be_read_says_nothing(books: Books) -> None:
    """A stub that a crash spoiled is no reason to stop, or to book a loss."""
    close_file(books, b"/a")
    (stub,) = books.settings.journal_dir.glob(f"*{CLOSED_SUFFIX}")
    stub.write_bytes(b"\xff\n")
    assert housekeeping.read_stub(Host(), stub) == []
    fresh = Books(books.settings)
    fresh.poster.round()
    assert lost(books) == 0
    fresh.close()


def test_a_stub_that_was_not_finished_says_nothing(books: Books) -> None:
    """Whoever was killed while making a stub left half of one behind: it is no file of its own, and goes in time."""
    books.note(b"/a")
    books.poster.post_now()
    (path,) = books.files()
    write_durably(Host(), path.with_suffix(CLOSED_SUFFIX), b"900 5 00000000 0 0\n")
    (stub,) = books.settings.journal_dir.glob(f"*{CLOSED_SUFFIX}")
    stub.rename(stub.with_name(stub.name + NEW_SUFFIX))
    books.poster.round()
    assert lost(books) == 0


def test_a_gap_is_only_what_the_ledger_lacks() -> None:
    """A watermark at or past the file's end is no gap; one before it lacks the difference."""
    end = Watermark(900, 40, 7, lost=1)
    assert housekeeping.gap_batch(0, "x", end, end) is None
    assert housekeeping.gap_batch(0, "x", end, replace(end, offset=1000)) is None
    told_late = housekeeping.gap_batch(0, "x", end, replace(end, lost=0))
    assert told_late
    assert told_late.wanted == end
    batch = housekeeping.gap_batch(0, "x", end, Watermark(500, 25, 3))
    assert batch
    assert batch.wanted == Watermark(900, 25, 7, lost=16)


def test_a_clock_that_runs_ahead_retires_nothing(books: Books) -> None:
    """One host that thinks it is years later does not make the ledger refuse the journals of all."""
    close_file(books, b"/a")

    class Ahead(Host):
        now = staticmethod(lambda: Host().now() + 40 * 365 * 86_400)

    poster = Poster(books.settings, books.store, host=Ahead())
    poster.round()
    poster.close()
    close_file(books, b"/b")
    assert books.counts() == {"/a": 1, "/b": 1}


def test_a_full_disk_is_no_reason_to_keep_what_fills_it(books: Books) -> None:
    """Where there is no room for a stub, the deleted file makes it."""
    books.note(b"/a")
    books.journal.close()

    class FullDisk(Host):
        def __init__(self) -> None:
            self.open = self._open  # type: ignore[assignment]

        def _open(self, path: Path, flags: int, mode: int = 0o777) -> int:
            if flags & os.O_CREAT and list(path.parent.glob("*.journal")):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return os.open(path, flags, mode)

    poster = Poster(books.settings, books.store, host=FullDisk())
    poster.round()
    poster.round()
    assert not books.files()
    assert len(list(books.settings.journal_dir.glob(f"*{CLOSED_SUFFIX}"))) == 1
    poster.close()


def test_many_files_do_not_hold_posting_up(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no time for all files in one round, each has its turn in a later one."""
    monkeypatch.setattr(housekeeping, "ROUND_SECONDS", 0.0)
    books = Books(replace(settings, journal_hold_seconds=0))
    for _ in range(3):
        books.note(b"/a")
        books.journal.close()
    left = []
    for _ in range(6):
        books.poster.round()
        left.append(len(books.files()))
    assert left == [3, 3, 3, 2, 1, 0]
    assert books.counts() == {"/a": 3}
    books.close()


def test_a_crash_loop_does_not_take_every_descriptor(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many small files, only so many are held; the others go once they are confirmed."""
    monkeypatch.setattr(housekeeping, "MOST_HELD_FILES", 2)
    books = Books(replace(settings, journal_hold_seconds=3600))
    for _ in range(6):
        books.note(b"/a")
        books.journal.close()

    def only_so_many_are_held() -> bool:
        books.poster.round()  # each keeps house for a tenth of a second at most
        return len(books.files()) == 2

    wait_until(only_so_many_are_held)
    assert books.counts() == {"/a": 6}
    books.close()


class CannotOpen(Host):
    """A machine on which journal files cannot be opened while `broken`."""

    broken = True

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:  # type: ignore[override]
        """Open a file, or fail."""
        if self.broken and path.suffix == journal.SUFFIX:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return os.open(path, flags, mode)


def test_what_is_still_there_is_not_booked_as_lost(books: Books) -> None:
    """A file whose poster was killed between its stub and its deletion is posted again, once it can be read."""
    books.note(b"/a", b"/b")
    (path,) = books.files()
    copy = path.read_bytes()
    close_file(books)
    path.write_bytes(copy)
    client = books.store.reader(0)
    client.delete(books.store.watermarks_key(0), books.store.set_key(0), books.store.totals_key(0))
    books.store.open()
    host = CannotOpen()
    fresh = Poster(books.settings, books.store, host=host)
    fresh.round()
    assert (lost(books), books.counts()) == (0, {})
    host.broken = False
    fresh.round()
    assert (lost(books), books.counts()) == (0, {"/a": 1, "/b": 1})
    fresh.close()
