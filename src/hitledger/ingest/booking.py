"""From a log into the ledger, exactly once.

The log's watermark, one a shard, is all that anybody knows of how far it is. A range of lines is
added up and booked where the watermark stands at its beginning, in the same script call that
moves it to its end, as with a journal (`lua/post.lua`): whoever comes second finds it moved.

Ranges are large, so that a URL that a log names a thousand times is booked once. What is too
much for one call goes in several: the watermark then says which range is being booked, how many
of its entries are in, and what all of them add up to (`entries.Part`). Whoever goes on, be it
another process, adds up the same range again and books the rest.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from zlib import crc32

from hitledger.entries import MOST_URLS_A_CALL, Batch, Hits, Part, Watermark, fitting, shard_of
from hitledger.errors import IngestError, LedgerError
from hitledger.ingest.identity import IngestLedger, KnownLog, raise_rungs
from hitledger.ingest.lines import Format
from hitledger.ingest.reading import LogStream
from hitledger.ingest.tally import MOST_ENTRIES, Account, Tally
from hitledger.ingest.targets import Names
from hitledger.ingest.times import Minutes
from hitledger.settings import Settings

CALLS_TOGETHER = 4
"""Calls that one server is sent in one go."""

Entry = tuple[str, int, int]
"""A URL or line, an hour, and hits."""


class MovedError(Exception):
    """Another process has booked of this log, or the ledger fell back: look at the watermark again."""


@dataclass
class Progress:
    """One shard's watermark, and up to where the log holds nothing more for the shard."""

    mark: Watermark | None
    clean: int

    @classmethod
    def of(cls, mark: Watermark | None) -> Progress:
        """Return the progress that a watermark tells of."""
        return cls(mark, mark.offset if mark else 0)


@dataclass(frozen=True)
class Reading:
    """How lines are read: their format, what counts under what, and the time zone of times without one."""

    settings: Settings
    form: Format
    names: Names
    minutes: Minutes

    def tally(self, whole_days_before: int) -> Tally:
        """Return an empty tally."""
        return Tally(self.form, self.names, self.minutes, whole_days_before)


@dataclass(frozen=True)
class Range:
    """Whole lines that were added up: from where to where, with the CRC-32 before each, and for which shards."""

    start: int
    start_crc: int
    end: int
    end_crc: int
    tally: Tally
    whole_days_before: int
    shards: Sequence[int]


class Booking:
    """One log on its way into the ledger."""

    def __init__(
        self, stream: LogStream, store: IngestLedger, log: KnownLog, reading: Reading, account: Account
    ) -> None:
        self._stream = stream
        self._store = store
        self._reading = reading
        self.name = log.name
        self.shards = [Progress.of(mark) for mark in log.marks]
        self.account = account
        """What became of the lines that were read here; `counted` is what was booked."""
        self.on_progress: Callable[[float], None] = lambda _: None
        """Told how much of a range is booked; 0 while it is read."""
        self.is_unchanged: Callable[[], bool] = lambda: True
        """Asked between reading and booking: whether what was read is still that log's."""

    def look_again(self) -> None:
        """Take over the watermarks that the ledger has now, without going back. Raises LedgerError and IngestError."""
        marks = self._store.watermarks([self.name])[self.name]
        for mark in sorted(filter(None, marks), key=lambda mark: mark.offset):
            if mark.offset >= self._stream.offset and self._stream.crc_at(mark.offset) not in (mark.crc, None):
                raise IngestError(f"{self._stream.source.name} is another log than the one that it began as.")
        self.shards = [Progress.of(mark) for mark in marks]

    def run(self) -> None:
        """Book all whole lines that there are, and a last one without a line feed where no more can come.

        Returns also where a pipe has nothing now (`LogStream.waiting`).

        Raises:
            MovedError: the watermark is not where it was.
            LedgerError: the ledger cannot be reached or refuses; what is booked stays booked.
            IngestError: the log cannot be read any further; what came before is booked.
        """
        failure: IngestError | None = None
        while failure is None:
            found, failure = self._next_range()
            if found is None:
                break
            self._book(found)
        if failure:
            raise failure

    def close(self) -> None:
        """Move every shard's watermark to the end of what is booked. Raises as `run`."""
        end, crc = self._stream.offset, self._stream.crc
        batches = [
            Batch(shard, self.name, each.mark, replace(each.mark or Watermark(0), offset=end, crc=crc), {})
            for shard, each in enumerate(self.shards)
            if each.clean == end and end and (each.mark is None or each.mark.offset < end)
        ]
        self._post(batches)

    def _next_range(self) -> tuple[Range | None, IngestError | None]:
        """Add up the next range; beside it, or without one, what keeps the log from being read any further."""
        start, stop, part, shards = self._place()
        stream = self._stream
        stream.seek(start)
        start_crc = stream.crc
        whole_days_before = part.whole_days_before if part else self._whole_days_before()
        tally = self._reading.tally(whole_days_before)
        failure = None
        try:
            while part or tally.entries < MOST_ENTRIES:
                lines = stream.lines(stop)
                if not lines:
                    break
                tally.add(lines)
                self.on_progress(0)
            if stop is None:
                self._add_last_line(tally)
        except IngestError as error:
            failure = error
        if part and stream.offset != part.end:
            shorter = f"{stream.source.name} is shorter than what is being counted of it."
            raise failure or IngestError(shorter, "Give the whole log: its beginning is counted in part already.")
        if stream.offset == start:
            return None, failure
        return Range(start, start_crc, stream.offset, stream.crc, tally, whole_days_before, shards), failure

    def _place(self) -> tuple[int, int | None, Part | None, list[int]]:
        """Return where the next range begins and must end, the part that it goes on from, and the shards it is for."""
        start = min(each.clean for each in self.shards)
        here = {at: each.mark.part if each.mark else None for at, each in enumerate(self.shards) if each.clean == start}
        begun = {part.end: part for part in here.values() if part}
        if begun:
            part = begun[min(begun)]
            return start, part.end, part, [at for at, each in here.items() if each and each.end == part.end]
        ahead = [each.clean for each in self.shards if each.clean > start]
        return start, min(ahead, default=None), None, list(here)

    def _whole_days_before(self) -> int:
        """Return the hour before which no hour is kept any more, so that days are all that is needed."""
        hours = self._reading.settings.retention_hours
        return int(time.time() // 3600) - hours - 25 if hours else 2**31

    def _add_last_line(self, tally: Tally) -> None:
        line = self._stream.last_line() if self._stream.source.is_whole else b""
        if not line:
            return
        alone = self._reading.tally(0)
        alone.add(line + b"\n")
        alone.hits()
        if alone.account.counted or alone.account.skipped:  # what cannot be read may be a line cut off
            tally.add(line + b"\n")
            self._stream.take_last_line()

    def _book(self, found: Range) -> None:
        stream = self._stream
        if not self.is_unchanged() or not raise_rungs(stream, self._store, self.name, found.start):
            raise MovedError
        by_shard = _entries(found.tally.hits(), len(self.shards))
        chains = [self._chain(shard, found, by_shard[shard]) for shard in found.shards]
        self.account.add(replace(found.tally.account, counted=0, urls=set()))
        if self.account.urls is not None:
            self.account.urls.update(hash(name) for entries in by_shard for name, _, _ in entries)
        booked = 0
        while batches := [batch for chain in chains for batch in islice(chain, CALLS_TOGETHER)]:
            self._post(batches)
            booked += sum(len(group.urls) + len(group.lines) for batch in batches for group in batch.hits.values())
            self.on_progress(min(1, booked / found.tally.entries))
        for shard in found.shards:
            self.shards[shard].clean = found.end
        stream.source.keep(needed=False)

    def _chain(self, shard: int, found: Range, entries: list[Entry]) -> Iterator[Batch]:
        """Yield the batches that book what a shard lacks of a range, each going on from the one before."""
        mark = self.shards[shard].mark
        begun = mark.part if mark else None
        at = begun.entries if begun else 0
        with_sections = self._store.keeps_sections
        many = begun is not None or fitting((name for name, _, _ in entries), with_sections=with_sections) < len(
            entries
        )
        digest = _digest(entries) if many else 0
        if begun and (begun.digest, begun.whole_days_before) != (digest, found.whole_days_before):
            raise LedgerError(
                f"{self._stream.source.name} was begun with other settings, or by another version of hitledger.",
                "Run it once with those: a part of what they add up to is booked already.",
            )
        while at < len(entries):
            piece = entries[at : at + MOST_URLS_A_CALL]
            piece = piece[: fitting((name for name, _, _ in piece), with_sections=with_sections)]
            hits = (mark.hits if mark else 0) + sum(count for _, _, count in piece)
            at += len(piece)
            if at == len(entries):
                wanted = Watermark(found.end, hits, found.end_crc)
            else:
                part = Part(found.end, at, digest, found.whole_days_before)
                wanted = Watermark(found.start, hits, found.start_crc, part=part)
            yield Batch(shard, self.name, mark, wanted, _by_hour(piece))
            mark = wanted

    def _post(self, batches: Sequence[Batch]) -> None:
        moved = False
        for batch, outcome in zip(batches, self._store.post(batches) if batches else [], strict=True):
            if outcome.error:
                raise outcome.error
            if not outcome.done:
                moved = True
                continue
            old = batch.expected.hits if batch.expected else 0
            self.account.counted += batch.wanted.hits - old if outcome.word == "posted" else 0
            self.shards[batch.shard].mark = batch.wanted
        if moved:
            raise MovedError


def _entries(hits: dict[int, dict[str, int]], shards: int) -> list[list[Entry]]:
    """Return hits as entries, by shard, in the one order that whoever goes on will find them in.

    Hour by hour, so that a call has few sets to add to, and by name, as the server keeps URLs of
    equal counts.
    """
    by_shard: list[list[Entry]] = [[] for _ in range(shards)]
    for hour in sorted(hits):
        table = hits[hour]
        for name in sorted(table):
            by_shard[shard_of(name, shards) if shards > 1 else 0].append((name, hour, table[name]))
    return by_shard


def _digest(entries: Sequence[Entry]) -> int:
    """Return the CRC-32 of all names, hours and counts."""
    names = crc32("\n".join([name for name, _, _ in entries]).encode())
    return crc32(array("q", [number for _, *numbers in entries for number in numbers]).tobytes(), names)


def _by_hour(entries: Sequence[Entry]) -> dict[int, Hits]:
    found: dict[int, Hits] = {}
    for name, hour, count in entries:
        group = found.setdefault(hour, Hits())
        (group.lines if name.startswith("(") else group.urls)[name] = count
    return found
