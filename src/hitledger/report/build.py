"""Adding a report up: several periods, a section, sections by depth or pattern, into a snapshot.

The ledger only ever hands out pieces of its sets (`source.walk_set`), so no other client of it
waits; the work is done here, beside it. How exact that is while counting goes on:

- Every URL that was in a set when its reading began is in the report, once, with a count that
  it had at some moment of the reading.
- A set whose period is over is read in place, and read again if late hits came meanwhile.
- A set that still grows is read from the fewest hits upwards. A URL that is hit then moves
  ahead of the reading, and is found again, rather than behind it, where it would be missed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import repeat
from pathlib import Path
from time import monotonic
from typing import Any

from hitledger.dispatch import Command
from hitledger.entries import Totals
from hitledger.errors import HitledgerError
from hitledger.ledger import LedgerStore
from hitledger.periods import Period
from hitledger.report.kept import KeptSections
from hitledger.report.page import rfc3339
from hitledger.report.routes import CountedRoutes
from hitledger.report.sections import Sections
from hitledger.report.snapshot import URLS_SHIFT, Head, SnapshotWriter, new_snapshot
from hitledger.report.source import STREAM_ROWS, walk_set
from hitledger.report.tally import MOST_IN_MEMORY, Tally

PIECE_NAMES = 50_000
FEW_HITS = 4
Piece = tuple[list[bytes], list[bytes] | int]
"""URLs, and the hits of each; one number where all have the same."""
RETRIES = 3
"""How often a build begins anew because of late hits, before it takes every set for one that grows."""
SETTLING = timedelta(minutes=2)
"""For how long after its end a period is taken for one that grows."""


@dataclass(frozen=True)
class Recipe:
    """What to add up: periods (none of them: all time), URLs that begin with a prefix, sections; or routes."""

    periods: tuple[Period, ...]
    prefix: bytes = b""
    sections: Sections | None = None
    generations: tuple[str, ...] = ()
    """Where the prefix is a section whose children the ledger keeps: each shard's generation of sections."""
    routes: bool = False


class Progress:
    """How far a build is: entries read, of so many. Written by one thread, read by others."""

    def __init__(self) -> None:
        self.done = 0
        self.of = 0
        self.cancelled = threading.Event()


class CancelledError(HitledgerError):
    """A report was no longer wanted before it was added up."""


class TooLargeError(HitledgerError):
    """A report needs more entries added up than the settings allow."""

    def __init__(self, entries: int, allowed: int) -> None:
        super().__init__(f"It adds up {entries:,} entries of the ledger, and {allowed:,} are allowed.")
        self.figures = entries, allowed


class _MovedError(Exception):
    """A set that should have been at rest has changed while it was read."""

    def __init__(self, period: Period | None) -> None:
        super().__init__()
        self.period = period


class Builder:
    """Builds one snapshot."""

    def __init__(self, store: LedgerStore, recipe: Recipe, path: Path, now: Callable[[], datetime]) -> None:
        self._store = store
        self._recipe = recipe
        self._path = path
        self._now = now
        self._sets: Sequence[Period | None] = recipe.periods or (None,)
        self._moving: set[Period | None] = set()
        self.progress = Progress()

    def build(self, most_entries: int) -> Head:
        """Write the snapshot and return its head.

        Raises:
            TooLargeError: there are more entries to read than `most_entries`.
            LedgerError: the ledger cannot be read. OSError: the file cannot be written.
        """
        begun, now = monotonic(), self._now()
        if self._recipe.generations:
            return self._build_kept(begun, now, most_entries)
        if self._recipe.routes:
            return self._build_routes(begun, now, most_entries)
        self._moving |= {each for each in self._sets if each is None or each.end + SETTLING > now}
        for _ in range(RETRIES):
            try:
                return self._build(begun, now, most_entries)
            except _MovedError as moved:
                self._moving.add(moved.period)
        self._moving |= set(self._sets)
        return self._build(begun, now, most_entries)

    def _build(self, begun: float, now: datetime, most_entries: int) -> Head:
        totals, versions, entries = self._look()
        if entries > most_entries:
            raise TooLargeError(entries, most_entries)
        self.progress.done, self.progress.of = 0, entries
        shards = self._store.identity.shards
        # Each shard alone, where all together would not fit into memory.
        groups = [range(shards)] if entries <= MOST_IN_MEMORY else [range(shard, shard + 1) for shard in range(shards)]
        with ExitStack() as stack:
            sections = stack.enter_context(self._tally()) if self._recipe.sections else None
            writer, heads = stack.enter_context(new_snapshot(self._path, 3 if sections else 2))
            splits = []
            for group in groups:
                before = len(writer.parts)
                with self._tally(keep_latest=len(self._sets) == 1) as urls:
                    for period in self._sets:
                        self._note_period(period, group, urls)
                    for table in urls.tables():
                        if sections is None:
                            writer.write(table)
                        else:
                            self._note_sections(table, sections)
                splits.append(len(writer.parts) - before)
            if sections:
                for table in sections.tables():
                    writer.write(table)
                splits = [len(writer.parts)]
            head = Head(rfc3339(now), versions, monotonic() - begun, totals.requests, totals.lines)
            heads.append(self._filled(head, writer, totals, splits))
        return heads[0]

    def _build_kept(self, begun: float, now: datetime, most_entries: int) -> Head:
        """Write a section's children as the ledger keeps them."""
        totals, versions, _ = self._look()
        kept, section = KeptSections(self._store, self._recipe.generations), self._recipe.prefix.decode()
        entries = kept.count_children(section)
        if entries > most_entries:
            raise TooLargeError(entries, most_entries)
        with new_snapshot(self._path, 3) as (writer, heads):
            writer.write(kept.children(section))
            head = Head(rfc3339(now), versions, monotonic() - begun, totals.requests, totals.lines)
            heads.append(self._filled(head, writer, totals, [1]))
        return heads[0]

    def _build_routes(self, begun: float, now: datetime, most_entries: int) -> Head:
        """Write the routes as the ledger counts them."""
        totals, versions, _ = self._look()
        counted = CountedRoutes(self._store, self._sets)
        entries = counted.count()
        if entries > most_entries:
            raise TooLargeError(entries, most_entries)
        found = counted.read()
        routes, lines = found.split()
        with new_snapshot(self._path, 2) as (writer, heads):
            writer.write(routes)
            head = Head(rfc3339(now), versions, monotonic() - begun, found.total, lines)
            heads.append(self._filled(head, writer, totals, [1]))
        return heads[0]

    def _filled(self, head: Head, writer: SnapshotWriter, totals: Totals, splits: list[int]) -> Head:
        """Complete the head with what the rows add up to."""
        total_urls: int | None = writer.urls
        if len(self._sets) == 1:
            total_urls = totals.urls
        elif self._recipe.prefix or self._recipe.routes:
            total_urls = None  # nobody has looked at them all
        return replace(
            head,
            requests=writer.requests,
            urls=writer.urls,
            rows=writer.rows,
            width=writer.width,
            parts=writer.parts,
            shards=self._store.identity.shards,
            splits=splits,
            total_urls=total_urls,
        )

    def _look(self) -> tuple[Totals, list[str], int]:
        """Return the totals over all periods, their versions and how many entries there are."""
        answers = self._store.read([call for each in self._sets for call in self._store.totals_calls(each)])
        totals = Totals.of(answers)
        return totals, versions_of(answers), totals.urls

    def _tally(self, *, keep_latest: bool = False) -> Tally:
        return Tally(
            self._path.parent, keep_latest=keep_latest, shards=self._store.identity.shards, most=MOST_IN_MEMORY
        )

    def _note_period(self, period: Period | None, shards: range, urls: Tally) -> None:
        """Note one period's URLs of some shards."""
        if len(self._sets) == 1:
            self._note(self._growing(period, shards), urls)
        elif period in self._moving:
            with self._tally(keep_latest=True) as latest:
                self._note(self._growing(period, shards), latest)
                for table in latest.tables():
                    urls.note(list(table), table.values())
        else:
            calls = self._store.totals_calls(period)
            before = versions_of(self._store.read(calls))
            self._note(self._resting(period, shards), urls)
            if versions_of(self._store.read(calls)) != before:
                raise _MovedError(period)

    def _note(self, pieces: Iterator[Piece], urls: Tally) -> None:
        """Note the URLs that begin with the prefix."""
        prefix = self._recipe.prefix
        for names, numbers in ahead(pieces):
            if self.progress.cancelled.is_set():
                raise CancelledError("The report is no longer wanted.")
            self.progress.done += len(names)
            if prefix:
                kept = [index for index, name in enumerate(names) if name.startswith(prefix)]
                names = [names[index] for index in kept]  # noqa: PLW2901 - less of the same
                if not isinstance(numbers, int):
                    numbers = [numbers[index] for index in kept]  # noqa: PLW2901
            if numbers == 1:
                urls.note_ones(names)
            else:
                urls.note(names, repeat(numbers) if isinstance(numbers, int) else map(int, numbers))

    def _growing(self, period: Period | None, shards: range) -> Iterator[Piece]:
        for shard in shards:
            for flat in walk_set(self._store, shard, self._store.set_key(shard, period), up=True, raw=True):
                yield flat[::2], flat[1::2]

    def _resting(self, period: Period | None, shards: range) -> Iterator[Piece]:
        for shard in shards:
            yield from walk_resting(self._store, shard, self._store.set_key(shard, period))

    def _note_sections(self, table: dict[bytes, int], found: Tally) -> None:
        assert self._recipe.sections
        names = list(table)
        for start in range(0, len(names), PIECE_NAMES):
            piece = names[start : start + PIECE_NAMES]
            numbers = [(table[name] << URLS_SHIFT) + 1 for name in piece]
            found.note(self._recipe.sections.of(piece), numbers)


def walk_resting(store: LedgerStore, shard: int, key: str) -> Iterator[Piece]:
    """Yield the URLs of a set that does not change: names, and their hits or the hits of each of them.

    Most URLs of an hour have few hits. Those are asked for without their hits, which is a third
    less to read.
    """
    calls: list[tuple[int, Command]] = [(shard, ("ZCOUNT", key, hits, hits)) for hits in range(1, FEW_HITS + 1)]
    rank = 0
    for hits, count in enumerate(store.read(calls), 1):
        for start in range(rank, rank + count, STREAM_ROWS):
            stop = min(start + STREAM_ROWS, rank + count) - 1
            (names,) = store.read([(shard, ("ZRANGE", key, start, stop))], raw=True)
            yield names, hits
        rank += count
    while True:
        (flat,) = store.read([(shard, ("ZRANGE", key, rank, rank + STREAM_ROWS - 1, "WITHSCORES"))], raw=True)
        if not flat:
            return
        yield flat[::2], flat[1::2]
        rank += STREAM_ROWS


def versions_of(answers: Sequence[Any]) -> list[str]:
    """Return what `LedgerStore.totals_calls` asks for as one text a shard, which changes with every hit."""
    return [str(table.get("requests", 0)) for table in answers[::2]]


def ahead(pieces: Iterator[Any]) -> Iterator[Any]:
    """Yield what an iterator yields while the next piece is fetched by another thread."""
    with ThreadPoolExecutor(1, "hitledger-report") as executor:
        coming = executor.submit(next, pieces, None)
        while (piece := coming.result()) is not None:
            coming = executor.submit(next, pieces, None)
            yield piece
