"""Following one journal file: what of it is new to each shard, added up.

A `Follower` knows, for each shard, the watermark that the ledger has and up to where the
file holds nothing more for that shard. `take` reads on from there and adds up equal records
before it looks at any of them, so that hot URLs cost next to nothing.

Leans on: the format of the files (`journal`), and on every batch that it makes being booked
only where the shard's watermark stands at the batch's beginning (`ledger`).
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from zlib import crc32

from hitledger.entries import LIKE_A_URL_BYTES, MOST_URLS_A_CALL, Batch, CallLoad, Hits, Outcome, Watermark, shard_of
from hitledger.errors import DamagedHeaderError, JournalError
from hitledger.host import Host
from hitledger.journal import (
    ENCODED,
    EXTENDED,
    HEADER_BYTES,
    JOURNAL_NAME,
    MOST_HITS,
    MOST_ROUTE_BYTES,
    OVERSIZED_KIND,
    PATH,
    UNMATCHED_KIND,
    is_good,
    read_header,
    salt_of,
    whole_part,
)
from hitledger.paths import OVERSIZED, UNMATCHED, path_of, url_of

log = logging.getLogger("hitledger.posting")

CHUNK_BYTES = 2**20
SLICE_RECORDS = 4096
"""Records added up at a time: many, so that hot URLs collapse at C speed ..."""
SMALLER_TIMES = 8
"""... or so many times fewer, again and again, where they are more than half of what a call takes."""
URL_CACHE_ENTRIES = 50_000
NEVER = sys.maxsize
"""Where a shard stands that takes nothing more of a file."""


@dataclass(frozen=True)
class ShardProgress:
    """How far one file is posted to one shard.

    `mark` is what the ledger has. From `mark.offset` to `clean` the file holds nothing for
    this shard, so its watermark need not move; `crc` is the running checksum at `clean`.
    """

    mark: Watermark | None
    clean: int
    crc: int
    away: bool = False
    """True while nobody answers for the shard: it waits, and the others go on."""


@dataclass(frozen=True)
class Taken:
    """What `Follower.take` found from `start` to `end`; `crc` is the running checksum at `end`."""

    start: int
    end: int
    crc: int
    damaged: int
    hits: Sequence[dict[int, Hits]]
    """One table a shard: hour -> hits."""


Meaning = tuple[bool, str, int, str]
"""What one record stands for: whether it is on a line, the URL or line, how many hits, their route if it is known."""


class UrlTable:
    """What record bodies mean, remembered."""

    def __init__(self, *, merge_trailing_slash: bool) -> None:
        self._merge = merge_trailing_slash
        self._known: dict[bytes, Meaning | None] = {}

    def meaning_of(self, body: bytes) -> Meaning | None:
        """Return what a record's kind and path stand for; None for an unknown kind."""
        try:
            return self._known[body]
        except KeyError:
            if len(self._known) >= URL_CACHE_ENTRIES:
                self._known.clear()
            meaning = self._known[body] = self._read(body)
            return meaning

    def _read(self, body: bytes) -> Meaning | None:
        if body[:1] == EXTENDED:
            return self._read_extended(body)
        name = self._name_of(body[:1], body[1:])
        return (*name, 1, "") if name else None

    def _read_extended(self, body: bytes) -> Meaning | None:
        parts = body[2:].split(b"\0", 2)
        if len(parts) < 3 or not 1 <= len(parts[0]) <= len(str(MOST_HITS)) or len(parts[1]) > MOST_ROUTE_BYTES:
            return None
        name = self._name_of(body[1:2], parts[2])
        if not name or not parts[0].isdigit() or not 1 <= int(parts[0]) <= MOST_HITS:
            return None
        return (*name, int(parts[0]), parts[1].decode("ascii", "replace"))

    def _name_of(self, kind: bytes, path: bytes) -> tuple[bool, str] | None:
        if kind == PATH:
            return False, url_of(path, merge_trailing_slash=self._merge)
        if kind == ENCODED:
            return False, url_of(path_of(path.decode("ascii", "replace")), merge_trailing_slash=self._merge)
        line = {UNMATCHED_KIND: UNMATCHED, OVERSIZED_KIND: OVERSIZED}.get(kind)
        return (True, line) if line else None


class Follower:
    """One journal file and how far it is posted to each shard."""

    def __init__(self, path: Path, urls: UrlTable, host: Host, *, any_name: bool = False) -> None:
        self.path = path
        self.name = path.name.partition(".")[0]
        self._urls = urls
        self._host = host
        self._fd = host.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._salt = salt_of(self._check_header(any_name=any_name))
        except (JournalError, OSError):
            host.close(self._fd)
            raise
        self.shards: list[ShardProgress] = []
        self.mismatch = ""
        """Why some shards' watermarks are not of this file; nothing more of it goes to those shards."""
        self._checked = (HEADER_BYTES, 0)
        self.confirmed_at: float | None = None
        self.with_sections = False
        """Whether the ledger keeps sections, as its poster knows: then a call takes fewer URLs."""

    def _check_header(self, *, any_name: bool) -> str:
        """Return the name that the file was made under."""
        try:
            name = read_header(self._host, self._fd).name
        except DamagedHeaderError as error:
            # Its records vouch for themselves, and its name is known.
            if not JOURNAL_NAME.fullmatch(self.name):
                raise
            log.error("journal file %s is read without its header: %s", self.path.name, error.message)  # noqa: TRY400
            return self.name
        if name != self.name and not any_name:
            raise JournalError(f"The journal file {self.path.name} has another file's header.")
        return name

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        with suppress(OSError):
            self._host.close(fd)

    def read(self, offset: int, most_bytes: int) -> bytes | None:
        """Return what the file holds from an offset on, from any thread; None once it is closed."""
        fd = self._fd
        try:
            data = self._host.pread(fd, most_bytes, offset)
        except OSError:
            return None
        # Once it is closed, the number may be another file's.
        return data if fd == self._fd >= 0 else None

    def tally(self) -> Tally:
        """Return an empty tally that records of this file can be added to."""
        return Tally(len(self.shards), self._urls, self._salt, with_sections=self.with_sections)

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        return self._host.size(self._fd)

    @property
    def posted(self) -> int:
        """Up to which byte every shard has its hits."""
        return min(shard.clean for shard in self.shards)

    @property
    def reached(self) -> int:
        """Up to which byte every shard that answers has its hits; `NEVER` where none does."""
        return min((shard.clean for shard in self.shards if not shard.away), default=NEVER)

    @property
    def waits(self) -> bool:
        """True while some shard does not answer."""
        return any(shard.away for shard in self.shards)

    @property
    def lost(self) -> int:
        """Hits that the file's writer could not journal; 0 where the header is damaged."""
        try:
            return read_header(self._host, self._fd).lost
        except DamagedHeaderError:
            return 0

    @property
    def has_untold_losses(self) -> bool:
        """True where the ledger does not know yet of hits that were lost beside this file."""
        if self.shards[0].away:
            return False
        mark = self.shards[0].mark
        return self.lost > (mark.lost if mark else 0)

    @contextmanager
    def writer_gone(self) -> Iterator[bool]:
        """Tell whether the file's writer is gone or has moved on; it cannot come back within."""
        gone = self._host.lock(self._fd)
        try:
            yield gone
        finally:
            if gone:
                self._host.unlock(self._fd)

    def look(self, marks: Sequence[Watermark | None], away: Collection[int] = ()) -> None:
        """Take over the watermarks that the ledger has, but of the shards that are away.

        A shard whose watermark lies on bytes that the file does not have takes nothing more of
        it; the others go on. `mismatch` says why.

        Raises:
            JournalError: no shard's watermark is of this file.
        """
        shards, mismatch = [], ""
        for shard, mark in enumerate(marks):
            old = self.shards[shard] if self.shards else None
            if shard in away:
                shards.append(replace(old or ShardProgress(None, HEADER_BYTES, 0), away=True))
                continue
            if old and old.mark == mark and old.clean != NEVER:
                shards.append(replace(old, away=False))
                continue
            if old and old.mark and (mark is None or mark.offset < old.mark.offset):
                log.warning("the ledger fell back behind what was posted of %s; posting it again", self.name)
                self.confirmed_at = None
            try:
                crc = self._check(mark) if mark else 0
                shards.append(ShardProgress(mark, mark.offset if mark else HEADER_BYTES, crc))
            except JournalError as error:
                mismatch = error.message
                shards.append(ShardProgress(mark, NEVER, 0))
        self.shards, self.mismatch = shards, mismatch
        if all(shard.clean == NEVER and not shard.away for shard in shards):
            raise JournalError(mismatch)

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

    def take(self, *, ended: bool, before: int | None = None) -> Taken | None:
        """Add up whole records from the first unposted one on; None where there are none.

        One call stops at what `MOST_URLS_A_CALL` distinct URLs ask of a shard. `ended` says that the
        writer is gone, so that an unfinished record at the end will never be finished. What stands
        from the byte `before` on, where a record begins, is left.
        """
        start, active = self.reached, [shard for shard in self.shards if not shard.away]
        crc = next(shard.crc for shard in active if shard.clean == start)
        # A batch ends at the next shard's position at the latest, so that for each shard all
        # of it is new or all of it is posted.
        stop = min((shard.clean for shard in active if shard.clean > start), default=None)
        room = min(place - start for place in (start + CHUNK_BYTES, stop, before) if place is not None)
        data = self._host.pread(self._fd, room, start) if room > 0 else b""
        if not data:
            return None
        pieces = data.split(b"\n")
        at_known_place = stop is not None and start + len(data) == stop
        torn_bytes = 0
        if not at_known_place and not is_good(pieces[-1], self._salt):
            if ended and start + len(data) >= self.size:
                if len(pieces) == 1 or not whole_part(pieces[-1], self._salt):
                    torn_bytes = len(pieces.pop()) + bool(pieces)
            elif len(data) < CHUNK_BYTES or len(pieces) > 2:
                pieces.pop()  # still being written, or cut off by the chunk
        return self._add_up(start, crc, data, pieces, torn_bytes)

    def _add_up(self, start: int, crc: int, data: bytes, pieces: list[bytes], torn_bytes: int) -> Taken | None:
        """Add up pieces: what stands before the first line feed, then records; torn bytes follow them."""
        tally = self.tally()
        length = len(pieces[0]) if pieces else 0
        tally.damaged += bool(length)
        at, step = 1, SLICE_RECORDS
        while at < len(pieces):
            counted = Counter(islice(pieces, at, at + step))
            load = tally.load_of(counted)
            if load > MOST_URLS_A_CALL / 2 and step > 1:
                step //= SMALLER_TIMES
                continue
            if not tally.has_room(load):
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
        if progress.away or progress.clean != taken.start:
            return None
        old = progress.mark or Watermark()
        lost = self._lost(shard, old)
        if not hits and not damaged and lost == old.lost:
            return None
        booked = sum(group.total for group in hits.values())
        wanted = Watermark(taken.end, old.hits + booked, taken.crc, lost, old.damaged + damaged)
        return Batch(shard, self.name, progress.mark, wanted, hits)

    def _lost(self, shard: int, old: Watermark) -> int:
        # A power cut may take the header's last tally back: what the ledger knows stays known.
        return max(self.lost, old.lost) if shard == 0 else old.lost

    def settle(self, taken: Taken, outcomes: dict[int, tuple[Batch, Outcome]]) -> bool:
        """Move on after posting; False where a shard's watermark must be looked at again."""
        settled = True
        for shard, progress in enumerate(self.shards):
            if progress.away or progress.clean != taken.start:
                continue
            if shard in outcomes:
                batch, outcome = outcomes[shard]
                if not outcome.done:
                    settled = False
                    continue
                mark: Watermark | None = batch.wanted
            else:
                mark = progress.mark
            # In one step: readers look at it without waiting for their turn.
            self.shards[shard] = ShardProgress(mark, taken.end, taken.crc)
        if settled:
            self._checked = (taken.end, taken.crc)
        return settled

    def wait_for(self, shards: Iterable[int]) -> None:
        """Take nothing for some shards until the next look."""
        for shard in shards if self.shards else ():
            self.shards[shard] = replace(self.shards[shard], away=True)

    def move_mark(self, batch: Batch) -> None:
        """Note that a batch without hits is booked."""
        self.shards[batch.shard] = replace(self.shards[batch.shard], mark=batch.wanted)

    def closing_batches(self) -> list[Batch]:
        """Return the batches, without hits, that bring the watermarks of shards that answer to the file's end."""
        found = []
        for shard, progress in enumerate(self.shards):
            if progress.away:
                continue
            old = progress.mark or Watermark()
            wanted = replace(old, offset=progress.clean, crc=progress.crc, lost=self._lost(shard, old))
            if wanted != progress.mark:
                found.append(Batch(shard, self.name, progress.mark, wanted, {}))
        return found


class Tally:
    """Records added up by shard, hour and URL."""

    def __init__(self, shards: int, urls: UrlTable, salt: int, *, with_sections: bool = False) -> None:
        self._salt = salt
        self.hits: list[dict[int, Hits]] = [{} for _ in range(shards)]
        self.damaged = 0
        self._with_sections = with_sections
        self._loads = [CallLoad(with_sections=with_sections) for _ in range(shards)]
        self._urls = urls

    def load_of(self, counted: Counter[bytes]) -> float:
        """Return how much equal records add to the call to any shard, at most."""
        if not self._with_sections:
            # All routes of a call together are no more than its distinct records.
            return len(counted) + sum(map(len, counted)) / LIKE_A_URL_BYTES
        load = CallLoad(with_sections=True)
        for name in {meaning[1] for record in counted if (meaning := self._urls.meaning_of(record[16:]))}:
            load.add(name)
        return load.urls

    def has_room(self, load: float) -> bool:
        """Tell whether so much more fits into one call to any shard; into an empty one, anything does."""
        most = max(each.urls for each in self._loads)
        return not most or most + load <= MOST_URLS_A_CALL

    def knows(self, record: bytes) -> bool:
        """Tell whether a record, or what a power cut left in its place, can be added."""
        return is_good(record, self._salt) or bool(whole_part(record, self._salt))

    def add(self, counted: Counter[bytes]) -> None:
        """Add equal records, each distinct one checked once."""
        shards = len(self.hits)
        for record, count in counted.items():
            whole = record if is_good(record, self._salt) else whole_part(record, self._salt)
            try:
                hour = int(whole[8:16], 16) // 3600
            except ValueError:  # nothing of it is whole, or its time is none
                self.damaged += count
                continue
            meaning = self._urls.meaning_of(whole[16:])
            if meaning is None or whole is not record:
                self.damaged += count
            if meaning is None:
                continue
            is_line, text, times, route = meaning
            shard = shard_of(text, shards) if shards > 1 else 0
            group = self.hits[shard].setdefault(hour, Hits())
            count *= times  # noqa: PLW2901 - records become hits
            if route:
                group.routes[route] = group.routes.get(route, 0) + count
            table = group.lines if is_line else group.urls
            if text in table:
                table[text] += count
            else:
                table[text] = count
                self._loads[shard].add(text)
