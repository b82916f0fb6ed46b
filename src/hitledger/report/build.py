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
from pathlib import Path
from time import monotonic
from typing import Any

from hitledger.entries import Totals
from hitledger.errors import HitledgerError
from hitledger.ledger import LedgerStore
from hitledger.periods import Period
from hitledger.report.page import rfc3339
from hitledger.report.sections import Sections
from hitledger.report.snapshot import URLS_SHIFT, Head, SnapshotWriter, new_snapshot
from hitledger.report.source import walk_set
from hitledger.report.tally import Tally

PIECE_NAMES = 50_000
RETRIES = 3
"""How often a build begins anew because of late hits, before it takes every set for one that grows."""
SETTLING = timedelta(minutes=2)
"""For how long after its end a period is taken for one that grows."""


@dataclass(frozen=True)
class Recipe:
    """What to add up: periods (none of them: all time), URLs that begin with a prefix, sections."""

    periods: tuple[Period, ...]
    prefix: bytes = b""
    sections: Sections | None = None


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
            raise TooLargeError(f"It adds up {entries:,} entries of the ledger, and {most_entries:,} are allowed.")
        self.progress.done, self.progress.of = 0, entries
        width = 2 if self._recipe.sections is None else 3
        with ExitStack() as stack:
            urls = stack.enter_context(self._tally(keep_latest=len(self._sets) == 1))
            for period in self._sets:
                self._note_period(period, urls)
            tables = urls.tables()
            if self._recipe.sections is not None:
                tables = stack.enter_context(self._by_section(self._recipe.sections, tables)).tables()
            writer, heads = stack.enter_context(new_snapshot(self._path, width))
            for table in tables:
                writer.write(table)
            head = Head(rfc3339(now), versions, monotonic() - begun, totals.requests, totals.lines)
            heads.append(self._filled(head, writer, totals))
        return heads[0]

    def _filled(self, head: Head, writer: SnapshotWriter, totals: Totals) -> Head:
        """Complete the head with what the rows add up to."""
        total_urls: int | None = writer.urls
        if len(self._sets) == 1:
            total_urls = totals.urls
        elif self._recipe.prefix:
            total_urls = None  # nobody has looked at the others
        return replace(
            head,
            requests=writer.requests,
            urls=writer.urls,
            rows=writer.rows,
            width=writer.width,
            parts=writer.parts,
            total_urls=total_urls,
        )

    def _look(self) -> tuple[Totals, list[str], int]:
        """Return the totals over all periods, their versions and how many entries there are."""
        answers = self._store.read([call for each in self._sets for call in self._store.totals_calls(each)])
        totals = Totals.of(answers)
        return totals, versions_of(answers), totals.urls

    def _tally(self, *, keep_latest: bool = False) -> Tally:
        return Tally(self._path.parent, keep_latest=keep_latest)

    def _note_period(self, period: Period | None, urls: Tally) -> None:
        """Note one period's URLs."""
        if len(self._sets) == 1:
            self._note_set(period, urls)
            return
        if period in self._moving:
            with self._tally(keep_latest=True) as latest:
                self._note_set(period, latest)
                for table in latest.tables():
                    urls.note(list(table), table.values())
            return
        calls = self._store.totals_calls(period)
        before = versions_of(self._store.read(calls))
        self._note_set(period, urls)
        if versions_of(self._store.read(calls)) != before:
            raise _MovedError(period)

    def _note_set(self, period: Period | None, urls: Tally) -> None:
        """Note the URLs of one period's sets, or of the set of all time, that begin with the prefix."""
        prefix = self._recipe.prefix
        for flat in ahead(self._pieces(period)):
            if self.progress.cancelled.is_set():
                raise CancelledError("The report is no longer wanted.")
            names, numbers = flat[::2], flat[1::2]
            self.progress.done += len(names)
            if prefix:
                kept = [index for index, name in enumerate(names) if name.startswith(prefix)]
                names, numbers = [names[index] for index in kept], [numbers[index] for index in kept]
            urls.note(names, map(int, numbers))

    def _pieces(self, period: Period | None) -> Iterator[list[bytes]]:
        for shard in range(self._store.identity.shards):
            yield from walk_set(self._store, shard, self._store.set_key(shard, period), up=True, raw=True)

    def _by_section(self, sections: Sections, tables: Iterator[dict[bytes, int]]) -> Tally:
        found = self._tally()
        for table in tables:
            names = list(table)
            for start in range(0, len(names), PIECE_NAMES):
                piece = names[start : start + PIECE_NAMES]
                numbers = [(table[name] << URLS_SHIFT) + 1 for name in piece]
                found.note(sections.of(piece), numbers)
        return found


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
