"""Posting: what the journal holds goes into the ledger, exactly once.

    journal file --pread--> `take`: whole records added up --> one batch a shard --> ledger

A `Follower` knows one journal file: for each shard the watermark that the ledger has and up
to where the file holds nothing more for that shard. A `Poster` follows all files of a host.
Any process may post, several at once too: the ledger takes a batch only where the shard's
watermark stands at its beginning. The lock file only keeps them from doing the work twice,
so a poster that cannot have it in time goes on without.

Leans on: `LedgerStore.post` for exactness, `journal` for the format of the files.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol
from zlib import crc32

from hitledger.errors import JournalError, LedgerError, LedgerUnavailableError
from hitledger.host import Host
from hitledger.journal import (
    ENCODED,
    HEADER_BYTES,
    OVERSIZED_KIND,
    PATH,
    SUFFIX,
    UNMATCHED_KIND,
    is_good,
    read_header,
)
from hitledger.ledger import (
    MOST_URLS_A_CALL,
    Batch,
    Hits,
    LedgerIdentity,
    Outcome,
    Watermark,
    shard_of,
)
from hitledger.paths import OVERSIZED, UNMATCHED, path_of, url_of
from hitledger.settings import Settings

log = logging.getLogger("hitledger.posting")

CHUNK_BYTES = 2**20
SLICE_RECORDS = 4096
"""Records added up at a time: many, so that hot URLs collapse at C speed ..."""
SMALL_SLICE_RECORDS = MOST_URLS_A_CALL // 2
"""... or this few, where most are different, so that a slice always fits into a call."""
LOOK_SECONDS = 1.0
"""How often the background looks at the watermarks of files it has posted: a ledger may fall back."""
LOCK_SECONDS = 0.25
"""How long to wait for another poster before going on beside it."""
URL_CACHE_ENTRIES = 50_000


@dataclass
class ShardProgress:
    """How far one file is posted to one shard.

    `mark` is what the ledger has. From `mark.offset` to `clean` the file holds nothing for
    this shard, so its watermark need not move; `crc` is the running checksum at `clean`.
    """

    mark: Watermark | None
    clean: int
    crc: int


@dataclass(frozen=True)
class Taken:
    """What `Follower.take` found from `start` to `end`; `crc` is the running checksum at `end`."""

    start: int
    end: int
    crc: int
    damaged: int
    hits: Sequence[dict[int, Hits]]
    """One table a shard: hour -> hits."""


class PostingLedger(Protocol):
    """What posting asks of the ledger; `LedgerStore` is it."""

    def open(self) -> LedgerIdentity:
        """Look at the ledger anew."""

    def watermarks(self, journals: Sequence[str]) -> dict[str, list[Watermark | None]]:
        """Return the watermarks of journal files, one a shard."""

    def post(self, batches: Sequence[Batch]) -> list[Outcome]:
        """Book batches."""

    def confirm(self, journal: str, marks: Sequence[Watermark], replicas: int = 0) -> bool:
        """Tell whether all that is posted of a file is durable."""


class UrlTable:
    """What record bodies mean: a cache of body -> (is a line, URL or line)."""

    def __init__(self, *, merge_trailing_slash: bool) -> None:
        self._merge = merge_trailing_slash
        self._known: dict[bytes, tuple[bool, str] | None] = {}

    def name_of(self, body: bytes) -> tuple[bool, str] | None:
        """Return what a record's kind and path are counted under; None for an unknown kind."""
        try:
            return self._known[body]
        except KeyError:
            if len(self._known) >= URL_CACHE_ENTRIES:
                self._known.clear()
            name = self._known[body] = self._read(body)
            return name

    def _read(self, body: bytes) -> tuple[bool, str] | None:
        kind, path = body[:1], body[1:]
        if kind == PATH:
            return False, url_of(path, merge_trailing_slash=self._merge)
        if kind == ENCODED:
            return False, url_of(path_of(path.decode("ascii", "replace")), merge_trailing_slash=self._merge)
        line = {UNMATCHED_KIND: UNMATCHED, OVERSIZED_KIND: OVERSIZED}.get(kind)
        return (True, line) if line else None


class Follower:
    """One journal file and how far it is posted to each shard."""

    def __init__(self, path: Path, urls: UrlTable, host: Host) -> None:
        self.path = path
        self.name = path.name.removesuffix(SUFFIX)
        self._urls = urls
        self._host = host
        self._fd = host.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if read_header(host, self._fd).name != self.name:
                raise JournalError(f"The journal file {path.name} has another file's header.")
        except JournalError:
            host.close(self._fd)
            raise
        self.shards: list[ShardProgress] = []
        self._checked = (HEADER_BYTES, 0)
        self.confirmed_at: float | None = None

    def close(self) -> None:
        """Close the file."""
        self._host.close(self._fd)

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        return self._host.size(self._fd)

    @property
    def posted(self) -> int:
        """Up to which byte every shard has its hits."""
        return min(shard.clean for shard in self.shards)

    @property
    def lost(self) -> int:
        """Hits that the file's writer could not journal."""
        return read_header(self._host, self._fd).lost

    @property
    def has_untold_losses(self) -> bool:
        """True where the ledger does not know yet of hits that were lost beside this file."""
        mark = self.shards[0].mark
        return self.lost != (mark.lost if mark else 0)

    @contextmanager
    def writer_gone(self) -> Iterator[bool]:
        """Tell whether the file's writer is gone or has moved on; it cannot come back within."""
        gone = self._host.lock(self._fd)
        try:
            yield gone
        finally:
            if gone:
                self._host.unlock(self._fd)

    def look(self, marks: Sequence[Watermark | None]) -> None:
        """Take over the watermarks that the ledger has.

        Raises:
            JournalError: the file does not hold the bytes that were posted under its name.
        """
        known = self.shards
        self.shards = []
        for shard, mark in enumerate(marks):
            old = known[shard] if shard < len(known) else None
            if old and old.mark == mark:
                self.shards.append(old)
                continue
            if old and old.mark and (mark is None or mark.offset < old.mark.offset):
                log.warning("the ledger fell back behind what was posted of %s; posting it again", self.name)
                self.confirmed_at = None
            crc = self._check(mark) if mark else 0
            self.shards.append(ShardProgress(mark, mark.offset if mark else HEADER_BYTES, crc))

    def _check(self, mark: Watermark) -> int:
        offset, crc = self._checked
        if mark.offset < offset:
            offset, crc = HEADER_BYTES, 0
        while offset < mark.offset:
            data = self._host.pread(self._fd, min(CHUNK_BYTES, mark.offset - offset), offset)
            if not data:
                raise JournalError(f"The journal file {self.name} is shorter than what was posted of it.")
            crc = crc32(data, crc)
            offset += len(data)
        if crc != mark.crc:
            raise JournalError(f"The journal file {self.name} is not the one that was posted under its name.")
        self._checked = (offset, crc)
        return crc

    def take(self, *, ended: bool) -> Taken | None:
        """Add up whole records from the first unposted one on; None where there are none.

        One call stops at `MOST_URLS_A_CALL` distinct URLs a shard. `ended` says that the
        writer is gone, so that an unfinished record at the end will never be finished.
        """
        start = self.posted
        crc = next(shard.crc for shard in self.shards if shard.clean == start)
        # A batch ends at the next shard's position at the latest, so that for each shard all
        # of it is new or all of it is posted.
        stop = min((shard.clean for shard in self.shards if shard.clean > start), default=None)
        room = CHUNK_BYTES if stop is None else min(CHUNK_BYTES, stop - start)
        data = self._host.pread(self._fd, room, start)
        if not data:
            return None
        pieces = data.split(b"\n")
        at_known_place = stop is not None and start + len(data) == stop
        torn_bytes = 0
        if not at_known_place and not is_good(pieces[-1]):
            if ended and start + len(data) >= self.size:
                torn_bytes = len(pieces.pop()) + bool(pieces)
            elif len(data) < CHUNK_BYTES or len(pieces) > 2:
                pieces.pop()  # still being written, or cut off by the chunk
        return self._add_up(start, crc, data, pieces, torn_bytes)

    def _add_up(self, start: int, crc: int, data: bytes, pieces: list[bytes], torn_bytes: int) -> Taken | None:
        """Add up pieces: what stands before the first line feed, then records; torn bytes follow them."""
        tally = Tally(len(self.shards), self._urls)
        length = len(pieces[0]) if pieces else 0
        tally.damaged += bool(length)
        at, step = 1, SLICE_RECORDS
        while at < len(pieces):
            counted = Counter(islice(pieces, at, at + step))
            if len(counted) > SMALL_SLICE_RECORDS and step > SMALL_SLICE_RECORDS:
                step = SMALL_SLICE_RECORDS
                continue
            if not tally.has_room(len(counted)):
                break
            tally.add(counted)
            end = min(at + step, len(pieces))
            length += sum(map(len, islice(pieces, at, end))) + end - at
            at = end
        else:
            length += torn_bytes
        if not length:
            return None
        crc = crc32(memoryview(data)[:length], crc)
        return Taken(start, start + length, crc, tally.damaged, tally.hits)

    def batches(self, taken: Taken) -> list[Batch]:
        """Return the batches that book what was taken, one for each shard that it concerns."""
        return [
            batch
            for shard in range(len(self.shards))
            if (batch := self._batch(shard, taken, taken.hits[shard], taken.damaged if shard == 0 else 0))
        ]

    def _batch(self, shard: int, taken: Taken, hits: dict[int, Hits], damaged: int) -> Batch | None:
        progress = self.shards[shard]
        if progress.clean != taken.start:
            return None
        old = progress.mark or Watermark()
        lost = self.lost if shard == 0 else 0
        if not hits and not damaged and lost == old.lost:
            return None
        booked = sum(sum(group.urls.values()) + sum(group.lines.values()) for group in hits.values())
        wanted = Watermark(taken.end, old.hits + booked, taken.crc, lost, old.damaged + damaged)
        return Batch(shard, self.name, progress.mark, wanted, hits)

    def settle(self, taken: Taken, outcomes: dict[int, tuple[Batch, Outcome]]) -> bool:
        """Move on after posting; False where a shard's watermark must be looked at again."""
        settled = True
        for shard, progress in enumerate(self.shards):
            if progress.clean != taken.start:
                continue
            if shard in outcomes:
                batch, outcome = outcomes[shard]
                if not outcome.done:
                    settled = False
                    continue
                progress.mark = batch.wanted
            progress.clean, progress.crc = taken.end, taken.crc
        if settled:
            self._checked = (taken.end, taken.crc)
        return settled

    def closing_batches(self) -> list[Batch]:
        """Return the batches, without hits, that bring every shard's watermark to the file's end."""
        lost = self.lost
        found = []
        for shard, progress in enumerate(self.shards):
            old = progress.mark or Watermark()
            wanted = replace(old, offset=progress.clean, crc=progress.crc, lost=lost if shard == 0 else 0)
            if wanted != progress.mark:
                found.append(Batch(shard, self.name, progress.mark, wanted, {}))
        return found


class Tally:
    """Records added up by shard, hour and URL."""

    def __init__(self, shards: int, urls: UrlTable) -> None:
        self.hits: list[dict[int, Hits]] = [{} for _ in range(shards)]
        self.damaged = 0
        self._distinct = [0] * shards
        self._urls = urls

    def has_room(self, distinct: int) -> bool:
        """Tell whether so many more distinct URLs fit into one call to any shard."""
        return max(self._distinct) + distinct <= MOST_URLS_A_CALL

    def add(self, counted: Counter[bytes]) -> None:
        """Add equal records, each distinct one checked once."""
        shards = len(self.hits)
        for record, count in counted.items():
            if not count:
                continue
            name = self._urls.name_of(record[16:]) if is_good(record) else None
            if name is None:
                self.damaged += count
                continue
            is_line, text = name
            shard = shard_of(text, shards) if shards > 1 else 0
            group = self.hits[shard].setdefault(int(record[8:16], 16) // 3600, Hits())
            table = group.lines if is_line else group.urls
            if text in table:
                table[text] += count
            else:
                table[text] = count
                self._distinct[shard] += 1


@dataclass(frozen=True)
class PostingStatus:
    """What the poster of this process knows: bytes not posted yet, and what stops posting, if anything."""

    pending_bytes: int
    error: str


class Poster:
    """Posts all journal files of a host; any number of posters may run at once."""

    def __init__(
        self, settings: Settings, store: PostingLedger, *, host: Host | None = None
    ) -> None:
        self._settings = settings
        self._store = store
        self._directory = settings.journal_dir
        self._urls = UrlTable(merge_trailing_slash=settings.merge_trailing_slash)
        self._host = host or Host()
        self._reset()
        _posters.add(self)

    def _reset(self) -> None:
        self._followers: dict[str, Follower] = {}
        self._set_aside: set[str] = set()
        self._mutex = threading.Lock()
        self._lock_fd = -1
        self._token = self._host.random_hex(8).encode()
        self._looked_at = float("-inf")
        self._error = ""
        self._started = self._ended = 0

    @property
    def status(self) -> PostingStatus:
        """What is known since the last round; asks nobody."""
        total = sum(size - HEADER_BYTES for _, size in self._host.files(self._directory, SUFFIX))
        posted = sum(each.posted - HEADER_BYTES for each in list(self._followers.values()) if each.shards)
        return PostingStatus(max(0, total - posted), self._error)

    def post_now(self) -> None:
        """Post every whole record that the host's journal holds at this moment.

        Raises:
            LedgerError: the ledger cannot be reached or refuses; what is posted stays posted.
        """
        waiting_since = self._started
        with self._mutex:
            if self._ended > waiting_since:
                return  # a run that began after this call has done it all
            self._run(look=True)

    def round(self) -> None:
        """Post what there is, look for a ledger that fell back, and delete what has been held. Raises as `post_now`."""
        with self._mutex:
            self._run(look=self._host.monotonic() - self._looked_at >= LOOK_SECONDS, keep_house=True)

    def close(self) -> None:
        """Close every file."""
        with self._mutex:
            self._close_files()
            self._reset()

    def _close_files(self) -> None:
        for follower in self._followers.values():
            follower.close()
        if self._lock_fd >= 0:
            self._host.close(self._lock_fd)

    def _after_fork_in_child(self) -> None:
        # The files are shared with the parent, and so would their locks be.
        self._close_files()
        self._reset()

    def _run(self, *, look: bool, keep_house: bool = False) -> None:
        self._started += 1
        run = self._started
        try:
            with self._posting_lock() as undisturbed:
                new = self._follow_new_files()
                if look or new or not undisturbed:
                    self._look()
                self._post_files()
                if keep_house:
                    self._keep_house()
        except LedgerError as error:
            self._error = error.message
            self._looked_at = float("-inf")
            raise
        self._error = ""
        self._ended = run

    @contextmanager
    def _posting_lock(self) -> Iterator[bool]:
        """Hold the host's posting lock; True within where nobody else posted since last time."""
        if self._lock_fd < 0:
            self._host.make_directory(self._directory)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._lock_fd = self._host.open(self._directory / "posting.lock", flags, 0o600)
        held = self._lock_within(LOCK_SECONDS)
        try:
            mine = held and self._host.pread(self._lock_fd, 16, 0) == self._token
            if held and not mine:
                self._host.pwrite(self._lock_fd, self._token, 0)
            yield mine
        finally:
            if held:
                self._host.unlock(self._lock_fd)

    def _lock_within(self, seconds: float) -> bool:
        deadline = self._host.monotonic() + seconds
        while not self._host.lock(self._lock_fd):
            if self._host.monotonic() >= deadline:
                return False
            self._host.sleep(0.002)
        return True

    def _follow_new_files(self) -> bool:
        present = {path.name: path for path, _ in self._host.files(self._directory, SUFFIX)}
        for name in set(self._followers) - set(present):
            self._followers.pop(name).close()
        new = False
        for name in present:
            if name in self._followers or name in self._set_aside:
                continue
            try:
                self._followers[name] = Follower(present[name], self._urls, self._host)
                new = True
            except FileNotFoundError:
                continue
            except (JournalError, OSError) as error:
                self._set_aside.add(name)
                log.error("journal file %s is left alone: %s", name, error)  # noqa: TRY400 - a state, not a crash
        return new

    def _look(self) -> None:
        found = self._store.watermarks([follower.name for follower in self._followers.values()])
        for name, follower in list(self._followers.items()):
            try:
                follower.look(found[follower.name])
            except JournalError as error:
                self._quarantine(name, str(error))
        self._looked_at = self._host.monotonic()

    def _post_files(self) -> None:
        for follower in list(self._followers.values()):
            with follower.writer_gone() as gone:
                target = follower.size
            while follower.path.name in self._followers and follower.posted < target:
                taken = follower.take(ended=gone)
                if taken is None:
                    break
                self._post(follower, taken)
            if follower.path.name in self._followers and follower.has_untold_losses:
                self._bring_to_end(follower)

    def _post(self, follower: Follower, taken: Taken) -> None:
        batches = follower.batches(taken)
        outcomes = {
            batch.shard: (batch, outcome)
            for batch, outcome in zip(batches, self._store.post(batches), strict=True)
        }
        if follower.settle(taken, outcomes):
            return
        words = {outcome.word for _, outcome in outcomes.values()}
        if "old" in words:
            self._quarantine(follower.path.name, "the ledger has forgotten journals as old as this one")
            return
        if "stranger" in words:
            self._store.open()
        error = next((outcome.error for _, outcome in outcomes.values() if outcome.error), None)
        if error:
            raise error
        self._look()

    def _quarantine(self, name: str, reason: str) -> None:
        follower = self._followers.pop(name)
        target = follower.path.with_suffix(".quarantined")
        log.error("journal file %s is set aside as %s: %s", name, target.name, reason)
        with suppress(OSError):
            self._host.rename(follower.path, target)
        follower.close()

    def _keep_house(self) -> None:
        for name, follower in list(self._followers.items()):
            with follower.writer_gone() as gone:
                if not gone or follower.posted < follower.size:
                    continue
                if follower.confirmed_at is None:
                    self._confirm(follower)
                elif self._host.monotonic() - follower.confirmed_at >= self._settings.journal_hold_seconds:
                    self._delete(name, follower)

    def _bring_to_end(self, follower: Follower) -> bool:
        closing = follower.closing_batches()
        for batch, outcome in zip(closing, self._store.post(closing), strict=True):
            if not outcome.done:
                self._looked_at = float("-inf")
                return False
            follower.shards[batch.shard].mark = batch.wanted
        return True

    def _confirm(self, follower: Follower) -> None:
        if not self._bring_to_end(follower):
            return
        marks = [shard.mark or Watermark() for shard in follower.shards]
        if self._store.confirm(follower.name, marks):
            follower.confirmed_at = self._host.monotonic()

    def _delete(self, name: str, follower: Follower) -> None:
        marks = self._store.watermarks([follower.name])[follower.name]
        if marks != [shard.mark for shard in follower.shards]:
            self._looked_at = float("-inf")
            follower.confirmed_at = None
            return
        self._host.unlink(follower.path)
        self._host.sync_directory(self._directory)
        self._followers.pop(name).close()


_posters: weakref.WeakSet[Poster] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for poster in list(_posters):
        poster._after_fork_in_child()  # noqa: SLF001 - one module


os.register_at_fork(after_in_child=_after_fork_in_child)


class Bookkeeper:
    """The background thread of a process: it syncs the journal and posts, every 100 ms."""

    def __init__(self, poster: Poster, maintain: Callable[[], None], interval_seconds: float) -> None:
        self._poster = poster
        self._maintain = maintain
        self._interval = interval_seconds
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._starting = threading.Lock()

    def start(self) -> None:
        """Start the thread where this process has none yet: also after a fork."""
        with self._starting:
            if self._pid == os.getpid():
                return
            self._pid = os.getpid()
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._run, name="hitledger-posting", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread, sync the journal and post what there is, if the ledger answers."""
        self._stop.set()
        if self._thread and self._pid == os.getpid():
            self._thread.join()
        self._maintain()
        try:
            self._poster.post_now()
        except LedgerError as error:
            log.warning("stopped with hits still in the journal: %s They are posted at the next start.", error)

    def _run(self) -> None:
        pause = self._interval
        while not self._stop.wait(pause):
            try:
                self._maintain()
                self._poster.round()
                if pause > self._interval:
                    log.warning("the ledger is back; posting goes on")
                pause = self._interval
            except LedgerUnavailableError as error:
                if pause <= self._interval:
                    log.warning("posting waits: %s", error)
                pause = min(2.0, pause * 2)
            except Exception:
                log.exception("posting failed; it is tried again")
                pause = min(2.0, pause * 2)
