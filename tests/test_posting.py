"""posting: what the journal holds is in the ledger exactly once, whatever happens in between."""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hitledger import journal, posting
from hitledger.entries import MOST_URLS_A_CALL, Batch, CallLoad, Outcome, Watermark, shard_of
from hitledger.errors import LedgerError, LedgerUnavailableError
from hitledger.host import Host
from hitledger.journal import HEADER_BYTES, JournalWriter
from hitledger.ledger import LedgerStore
from hitledger.paths import url_of
from hitledger.periods import Period
from hitledger.posting import Poster
from hitledger.settings import Settings
from tests.books import Books, counts_of
from tests.support import Valkey, wait_until


@pytest.fixture
def books(settings: Settings) -> Iterator[Books]:
    """Books of the test's own."""
    books = Books(settings)
    yield books
    books.close()


@pytest.fixture(params=[1, 3], ids=["one shard", "three shards"])
def sharded(settings: Settings, request: pytest.FixtureRequest) -> Iterator[Books]:
    """The same, with one shard and with three."""
    books = Books(replace(settings, shards=request.param))
    yield books
    books.close()


def test_hits_are_posted_once(sharded: Books) -> None:
    """Posting twice books what was there once, and what is new once."""
    sharded.note(b"/a", b"/a", b"/b")
    sharded.poster.post_now()
    sharded.poster.post_now()
    sharded.note(b"/a", b"/c")
    sharded.poster.post_now()
    assert sharded.counts() == {"/a": 3, "/b": 1, "/c": 1}
    assert sharded.store.totals().requests == 5


def test_two_posters_do_not_double(sharded: Books) -> None:
    """A second poster that knows nothing of the first goes on where that one was."""
    other = Poster(sharded.settings, LedgerStore(sharded.settings))
    for number in range(20):
        sharded.note(b"/%d" % (number % 7), b"/x")
        (sharded.poster if number % 3 else other).post_now()
    assert sum(sharded.counts().values()) == sharded.store.totals().requests == 40
    other.close()


def test_a_poster_without_the_lock_is_still_exact(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another process holds the lock for too long, posting goes on beside it, exactly."""
    monkeypatch.setattr(posting, "LOCK_SECONDS", 0.0)
    books.note(b"/a")
    books.poster.post_now()
    lock = os.open(books.settings.journal_dir / "posting.lock", os.O_RDWR)
    assert books.poster._host.lock(lock)
    other = Poster(books.settings, books.store)
    for _ in range(5):
        books.note(b"/a")
        books.poster.post_now()
        other.post_now()
    os.close(lock)
    assert books.counts() == {"/a": 6}
    other.close()


def test_many_urls_go_in_several_calls(sharded: Books) -> None:
    """More distinct URLs than one script call takes are all booked."""
    paths = [b"/%d" % number for number in range(5_000)]
    sharded.note(*paths, *paths[:2_000])
    sharded.poster.post_now()
    assert sharded.counts() == {f"/{number}": 1 + (number < 2_000) for number in range(5_000)}


LONG = {
    "deep and all different": [b"/" + b"/".join(b"%d-%d" % (each, at) for at in range(12)) for each in range(400)],
    "deep and alike": [b"/a/b/c/d/e/f/g/%d" % each for each in range(1500)],
    "long": [b"/" + b"x" * 6000 + b"/%d" % each for each in range(300)],
}


@pytest.mark.parametrize("paths", LONG.values(), ids=list(LONG))
@pytest.mark.parametrize("keep_sections", [False, True])
def test_no_call_asks_for_more_than_a_thousand_urls_do(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, paths: list[bytes], keep_sections: bool
) -> None:
    """Long URLs, and with sections kept deep ones, go in so many calls that none holds the server up for long."""
    loads = []
    post = LedgerStore.post

    def watched(store: LedgerStore, batches: Sequence[Batch]) -> list[Outcome]:
        for batch in batches:
            load = CallLoad(with_sections=keep_sections)
            for url in {url for group in batch.hits.values() for url in group.urls}:
                load.add(url)
            loads.append(load.urls)
        return post(store, batches)

    monkeypatch.setattr(LedgerStore, "post", watched)
    books = Books(replace(settings, keep_sections=keep_sections))
    for _ in range(2):
        books.note(*paths)
        books.poster.post_now()
    assert books.counts() == {path.decode(): 2 for path in paths}
    assert max(loads) <= MOST_URLS_A_CALL
    assert max(loads) > MOST_URLS_A_CALL / 4
    books.close()


def test_a_url_that_is_too_much_for_a_call_goes_alone(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever one URL asks of a server, it is posted."""
    monkeypatch.setattr("hitledger.follower.MOST_URLS_A_CALL", 5)
    books = Books(replace(settings, keep_sections=True))
    books.note(*[b"/a/b/c/d/e/f/%d/" % each for each in range(30)])
    books.poster.post_now()
    assert len(books.counts()) == 30
    books.close()


def test_a_poster_that_begins_knows_that_sections_are_kept(settings: Settings) -> None:
    """Its first call takes no more than those that follow: opening the ledger tells."""
    LedgerStore(replace(settings, keep_sections=True)).open()
    store = LedgerStore(settings)
    store.open()
    assert store.keeps_sections


def test_lines_are_counted_beside_the_urls(books: Books) -> None:
    """Unmatched and oversized requests are in the totals, and are no URLs."""
    books.note(b"/a")
    for kind in (journal.UNMATCHED_KIND, journal.UNMATCHED_KIND, journal.OVERSIZED_KIND):
        books.journal.append(kind, b"")
    books.poster.post_now()
    totals = books.store.totals()
    assert (totals.requests, totals.urls) == (4, 1)
    assert totals.lines == {"(unmatched)": 2, "(oversized)": 1}


def test_the_cap_on_urls_is_exact(sharded: Books) -> None:
    """Past the cap new URLs are counted under (overflow), known ones as before, and nothing else changes."""
    capped = Books(replace(sharded.settings, max_urls=30))
    capped.note(*[b"/%d" % number for number in range(200)] * 2, *[b"/first"] * 5)
    capped.poster.post_now()
    totals = capped.store.totals()
    assert totals.urls == 30
    assert totals.requests == 405
    assert sum(capped.counts().values()) + totals.lines["(overflow)"] == 405
    before = capped.counts()
    capped.note(*[b"/%d" % number for number in range(200)])
    capped.poster.post_now()
    assert set(capped.counts()) == set(before)
    assert sum(capped.counts().values()) == sum(before.values()) + len([url for url in before if url != "/first"])
    capped.close()


def test_an_unfinished_record_waits(books: Books) -> None:
    """A reader that meets half a record leaves it for later, and takes it whole when it is."""
    books.note(b"/a", b"/b")
    (path,) = books.files()
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(len(whole) - 3)
    books.poster.post_now()
    assert books.counts() == {"/a": 1}
    path.write_bytes(whole)
    books.poster.post_now()
    assert books.counts() == {"/a": 1, "/b": 1}


def test_a_torn_end_of_a_dead_writer_is_passed_over(books: Books) -> None:
    """What a crash left of its last record holds nothing up and counts nothing."""
    books.note(b"/a", b"/b")
    books.journal.close()
    (path,) = books.files()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 3)
    books.poster.post_now()
    assert books.counts() == {"/a": 1}
    assert books.poster.status.pending_bytes == 0


@pytest.mark.parametrize("rest", [b"\0" * 700, b"\xd3stale" * 90, b"\0" * 40 + b"\n" + b"\0" * 40])
def test_what_a_power_cut_left_behind_a_record_does_not_spoil_it(books: Books, rest: bytes) -> None:
    """A file that is longer than its data keeps the last record that reached the disk."""
    books.note(b"/a", b"/\0")
    books.journal.close()
    (path,) = books.files()
    path.write_bytes(path.read_bytes() + rest)
    books.poster.post_now()
    assert books.counts() == {"/a": 1, "/%00": 1}
    assert books.poster.status.pending_bytes == 0


def test_every_flipped_byte_costs_one_record_at_most(settings: Settings) -> None:
    """A byte that flips on the disk spoils its own record, which is counted as damaged; the rest is booked."""
    template = Books(settings)
    template.note(b"/a", b"/b", b"/c")
    template.journal.close()
    (path,) = template.files()
    data = path.read_bytes()
    for place in range(HEADER_BYTES, len(data)):
        books = Books(replace(settings, key_prefix=f"{settings.key_prefix}-{place}"))
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        books.poster.post_now()
        counts = books.counts()
        # A flipped line feed joins two records; a torn last one is passed over in silence.
        assert sum(counts.values()) >= (1 if data[place : place + 1] == b"\n" else 2), place
        assert set(counts) <= {"/a", "/b", "/c"}
        books.close()
    template.close()


def test_a_cloned_file_is_not_merged(books: Books) -> None:
    """A file that went another way under a name that was posted is set aside, and nothing of it is booked."""
    books.note(b"/a", b"/a")
    books.poster.post_now()
    books.poster.close()
    (path,) = books.files()
    path.write_bytes(path.read_bytes()[:HEADER_BYTES] + b"\n" + b"x" * 200)
    books.poster.post_now()
    assert books.counts() == {"/a": 2}
    assert not books.files()
    assert len(list(books.settings.journal_dir.glob("*.quarantined"))) == 1


def test_a_file_shorter_than_posted_is_set_aside_and_the_writer_goes_on(books: Books) -> None:
    """A disk that was rolled back loses nothing that comes after it."""
    books.note(b"/a", b"/a")
    books.poster.post_now()
    books.poster.close()
    (path,) = books.files()
    with path.open("r+b") as file:
        file.truncate(HEADER_BYTES + 5)
    books.poster.post_now()
    books.journal.maintain()
    books.note(b"/b")
    books.poster.post_now()
    assert books.counts() == {"/a": 2, "/b": 1}


class FailsOn(Host):
    """A host on which a call fails for one file while `failing`."""

    def __init__(self, name: str, call: str) -> None:
        self.failing = True
        self._name = name
        if call == "open":
            self.open = self._open  # type: ignore[assignment]
        else:
            self.pread = self._pread

    def _fail_on(self, name: str) -> None:
        if self.failing and name == self._name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        self._fail_on(path.name)
        return os.open(path, flags, mode)

    def _pread(self, fd: int, size: int, offset: int) -> bytes:
        if offset >= HEADER_BYTES:
            self._fail_on(Path(f"/proc/self/fd/{fd}").readlink().name)
        return os.pread(fd, size, offset)


@pytest.mark.parametrize("call", ["open", "pread"])
def test_a_file_that_cannot_be_read_holds_no_other_up(books: Books, call: str) -> None:
    """A disk error on one file: the others are posted, and so is this one once it can be read."""
    books.note(b"/a")
    books.journal.close()
    (first,) = books.files()
    books.note(b"/b")
    host = FailsOn(first.name, call)
    poster = Poster(books.settings, books.store, host=host)
    poster.post_now()
    assert books.counts() == {"/b": 1}
    host.failing = False
    poster.post_now()
    assert books.counts() == {"/a": 1, "/b": 1}
    poster.close()


def test_a_damaged_header_spoils_no_record(books: Books) -> None:
    """Records vouch for themselves: a file whose header went bad, even while it is in use, is posted."""
    books.note(b"/a")
    books.poster.post_now()
    (path,) = books.files()
    with path.open("r+b") as file:
        file.write(b"\0" * HEADER_BYTES)
    books.note(b"/b")
    books.poster.post_now()
    Poster(books.settings, books.store).post_now()
    assert books.counts() == {"/a": 1, "/b": 1}


def test_a_shard_that_is_ahead_of_a_cut_file_does_not_hold_up_the_others(settings: Settings) -> None:
    """A power cut took what one shard has already: what another shard lacks of the file is still posted to it."""
    books = Books(replace(settings, shards=2))
    names = [(b"/%d" % number, shard_of(f"/{number}", 2)) for number in range(20)]
    zeroth, first = ([path for path, shard in names if shard == which] for which in (0, 1))
    books.note(*zeroth[:2], *first[:2], *zeroth[2:])
    (path,) = books.files()
    kept = path.read_bytes()
    books.poster.post_now()
    client = books.store.reader(1)
    client.delete(books.store.watermarks_key(1), books.store.set_key(1))
    books.journal.close()
    books.poster.close()
    cut = kept.index(b"h" + zeroth[2]) - 17
    path.write_bytes(kept[:cut] + b"\0" * 30)
    books.poster.post_now()
    assert books.counts() == {name.decode(): 1 for name in (*zeroth, *first[:2])}
    assert not books.files()


def test_a_ledger_that_fell_back_is_healed(books: Books, valkey: Valkey) -> None:
    """Counts and watermarks that went back together are brought forward from the files that are held."""
    books.note(b"/a", b"/b")
    books.poster.post_now()
    client = valkey.client
    keys = [books.store.set_key(0), books.store.totals_key(0), books.store.watermarks_key(0)]
    copies = [f"{key}:copy" for key in keys]
    for key, copy in zip(keys, copies, strict=True):
        client.copy(key, copy)
    books.note(b"/a", b"/c")
    books.poster.post_now()
    for key, copy in zip(keys, copies, strict=True):
        client.rename(copy, key)
    assert books.counts() == {"/a": 1, "/b": 1}
    books.poster.post_now()
    assert books.counts() == {"/a": 2, "/b": 1, "/c": 1}
    assert books.store.totals().requests == 4


def test_a_ledger_that_was_emptied_is_made_anew(books: Books, valkey: Valkey) -> None:
    """After a FLUSHALL what the journal still holds is booked again, once."""
    books.note(b"/a", b"/b")
    books.poster.post_now()
    for key in valkey.client.scan_iter(f"{books.settings.key_prefix}:*"):
        valkey.client.delete(key)
    books.note(b"/a")
    books.poster.post_now()
    assert books.counts() == {"/a": 2, "/b": 1}


class LosesReplies(LedgerStore):
    """A ledger of which every second reply to a posting is lost after the work is done."""

    calls = 0

    def post(self, batches: Sequence[Batch]) -> list[Outcome]:
        """Book, and say that nobody knows."""
        outcomes = super().post(batches)
        self.calls += 1
        if self.calls % 2:
            error = LedgerUnavailableError("The reply was lost.")
            return [Outcome("unknown", error=error) for _ in batches]
        return outcomes


def test_a_lost_reply_doubles_nothing(sharded: Books) -> None:
    """Where nobody knows whether a batch was booked, the watermark does."""
    poster = Poster(sharded.settings, LosesReplies(sharded.settings))
    for number in range(10):
        sharded.note(b"/%d" % (number % 4))
        while True:
            try:
                poster.post_now()
                break
            except LedgerError:
                continue
    assert sum(sharded.counts().values()) == 10
    poster.close()


def test_losses_reach_the_ledger(books: Books) -> None:
    """Hits that a process could not journal are in the watermark of its file."""
    books.note(b"/a")
    path = books.lose(7)
    books.poster.post_now()
    mark = books.store.watermarks([path.stem])[path.stem][0]
    assert mark == Watermark(path.stat().st_size, 1, mark.crc if mark else 0, lost=7)


class Yesterday(Host):
    """A host whose clock is a day behind."""

    now = staticmethod(lambda: Host.now() - 86_400)


@pytest.mark.usefixtures("one_hour")
def test_hits_are_booked_in_the_hour_they_were_received(books: Books) -> None:
    """However late it is posted, a hit belongs to the hour, day and month of its record."""
    yesterday = JournalWriter(books.settings.journal_dir, host=Yesterday())
    yesterday.append(journal.PATH, b"/a")
    books.note(b"/b")
    books.poster.post_now()
    moment = datetime.now(UTC)
    assert books.store.totals(Period.containing("day", moment)).requests == 1
    assert books.store.totals(Period.containing("day", moment - timedelta(days=1))).requests == 1
    assert books.store.totals(Period.containing("hour", moment - timedelta(days=1))).requests == 1
    key = books.store.set_key(0, Period.containing("hour", moment))
    left = books.store.reader(0).ttl(key)
    assert 48 * 3600 <= left <= 49 * 3600
    yesterday.close()


PATHS = st.binary(max_size=12)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("note"), st.integers(0, 1), st.lists(PATHS, min_size=1, max_size=8)),
        st.tuples(st.just("post"), st.integers(0, 1)),
        st.tuples(st.just("round"), st.integers(0, 1)),
        st.tuples(st.just("die"), st.integers(0, 1)),
    ),
    max_size=25,
)


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, shards=st.sampled_from([1, 2, 5]))
def test_journal_to_ledger_is_a_counter(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[object, ...]], shards: int
) -> None:
    """Whatever two writers and two posters do in whatever order, the ledger ends up as a plain Counter."""
    own = replace(
        settings, shards=shards, data_dir=tmp_path_factory.mktemp("data"), journal_hold_seconds=0,
        key_prefix=f"{settings.key_prefix}-{os.urandom(6).hex()}", journal_file_bytes=4096,
    )  # fmt: skip
    store = LedgerStore(own)
    writers = [JournalWriter(own.journal_dir, file_bytes=HEADER_BYTES + 120) for _ in range(2)]
    posters = [Poster(own, store) for _ in range(2)]
    truth: Counter[str] = Counter()
    for step in steps:
        match step:
            case ("note", int(who), list(paths)):
                for path in paths:
                    writers[who].append(journal.PATH, path)
                    truth[url_of(path)] += 1
                writers[who].maintain()
            case ("post", int(who)):
                posters[who].post_now()
            case ("round", int(who)):
                posters[who].round()
            case ("die", int(who)):
                writers[who].close()
    posters[0].post_now()
    assert counts_of(store) == dict(truth)
    assert store.totals().requests == truth.total()
    for poster, writer in zip(posters, writers, strict=True):
        poster.close()
        writer.close()
    store.close()


def test_readers_do_not_queue_for_a_ledger_that_is_away(settings: Settings, valkey: Valkey) -> None:
    """While one caller waits for a ledger that does not answer, others who have no patience are told at once."""
    with valkey.proxy() as proxy:
        books = Books(replace(settings, redis_url=proxy.url))
        books.note(b"/a")
        poster = books.poster
        proxy.refuse()
        with pytest.raises(LedgerUnavailableError):
            poster.post_now()
        with poster._mutex:  # as one holds it that waits for the ledger
            poster._away_at = float("-inf")
            for _ in range(50):
                with pytest.raises(LedgerUnavailableError):
                    poster.post_now(patient=False)
        proxy.heal()
        poster.post_now()
        poster.post_now(patient=False)
        assert books.counts() == {"/a": 1}
        books.close()


def test_readers_leave_threads_to_others(settings: Settings) -> None:
    """Where half of the threads wait for a ledger that has just stopped answering, one more is sent away."""
    books = Books(replace(settings, threads=2))
    books.note(b"/a")
    poster = books.poster
    reader = threading.Thread(target=poster.post_now, kwargs={"patient": False})
    with poster._mutex:  # as one holds it that waits for the ledger
        reader.start()
        wait_until(lambda: not poster._room._value)
        with pytest.raises(LedgerUnavailableError, match="slow"):
            poster.post_now(patient=False)
        assert reader.is_alive()
    reader.join()
    assert books.counts() == {"/a": 1}
    books.close()


class Overtaken:
    """A poster's lock which somebody else takes first, for a round in the background that does not look."""

    def __init__(self, poster: Poster) -> None:
        self._poster = poster

    def acquire(self, **_: object) -> bool:
        """Let the other work, then have it."""
        self._poster._run(look=False)
        return True

    def release(self) -> None:
        """Give it back."""


def test_a_reader_is_not_content_with_a_round_that_did_not_look(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that fell back a moment ago is healed for the next reader, though a round has just posted."""
    books.note(b"/a")
    books.poster.post_now()
    client = books.store.reader(0)
    client.delete(books.store.watermarks_key(0), books.store.set_key(0), books.store.totals_key(0))
    books.store.open()
    monkeypatch.setattr(books.poster, "_mutex", Overtaken(books.poster))
    books.poster.post_now()
    monkeypatch.undo()
    assert books.counts() == {"/a": 1}
