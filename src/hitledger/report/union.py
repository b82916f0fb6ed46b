"""The top of several periods added up, without adding all of them up.

A part is one shard; its lists are that shard's sets, one a period, each in order. They are read
from the top, a block each at a time. A URL not met so far has at most the hits that the blocks'
last rows have together; so every URL met, looked up in all lists, whose sum is above that
threshold is certain, and stands above all others. That is the threshold algorithm (R. Fagin,
A. Lotem, M. Naor: Optimal aggregation algorithms for middleware, 2001).

It is quick where a page is near the top, because what is hot in one hour is mostly hot in the
next. Deep down, among equal counts, it would read everything: there it gives up, and the page
comes from a snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hitledger.dispatch import Command
from hitledger.entries import shard_of
from hitledger.errors import HitledgerError
from hitledger.ledger import LedgerStore
from hitledger.periods import Period
from hitledger.report.cursor import Place
from hitledger.report.source import Flat, Slice

MOST_LOOKUPS = 1_000_000
"""Rows and look-ups of one reading: about a second, in pieces of `PIECE_ROWS`."""
PIECE_ROWS = 2000
"""Rows or look-ups that are asked for together: about 1 ms of a server."""

SPARE_ROWS = 20
"""Rows beyond a quarter more than the page that each list is read down to at first."""


class TooDeepError(HitledgerError):
    """A page is too deep to be found from the top."""


@dataclass
class _Part:
    """What is known of one shard: how far its lists are read, and the sums of URLs met."""

    lowest: list[int]
    """The hits of the last row read of each list; 0 once all of it is read."""
    read_rows: int = 0
    sums: dict[str, int] = field(default_factory=dict)

    @property
    def threshold(self) -> int:
        """The most hits that a URL not met so far can have."""
        return sum(self.lowest)

    def certain_behind(self, behind: Place | None) -> list[Place]:
        """Return the rows that are sure to be the next ones behind a place."""
        above = self.threshold
        rows = [(hits, url) for url, hits in self.sums.items() if hits > above]
        rows.sort(reverse=True)
        return rows if behind is None else [row for row in rows if row < behind]


class UnionSource:
    """The top of several periods added up, a part a shard."""

    width = 2

    def __init__(self, store: LedgerStore, periods: Sequence[Period], most_lookups: int = MOST_LOOKUPS) -> None:
        self._store = store
        self._periods = periods
        self._most_lookups = most_lookups
        self._known: dict[int, _Part] = {}
        self._lookups = 0
        self.parts = store.identity.shards

    def read(self, slices: Sequence[Slice]) -> list[Flat]:
        """Read slices of parts. Raises TooDeepError where that takes more look-ups than are allowed."""
        return [self._read(each) for each in slices]

    def walk(self, part: int, behind: Place | None) -> Iterator[Flat]:
        """Not for this source: who wants all rows has them added up."""
        raise NotImplementedError

    def part_of(self, url: str) -> int:
        """Return the shard of a URL."""
        return shard_of(url, self.parts)

    def _read(self, piece: Slice) -> Flat:
        known = self._known.setdefault(piece.part, _Part([1] * len(self._periods)))
        while True:
            rows = known.certain_behind(piece.behind)
            if known.read_rows and (len(rows) >= piece.rows or not known.threshold):
                return [text for hits, url in rows[: piece.rows] for text in (url, str(hits))]
            # Lists are seldom in the same order: a little more than the page first, then twice as much.
            self._go_down(piece.part, known, max(known.read_rows, piece.rows + piece.rows // 4 + SPARE_ROWS))

    def _go_down(self, part: int, known: _Part, rows: int) -> None:
        """Read so many more rows of each list, and look up in all lists what is new in them."""
        met: dict[str, None] = {}
        for index, period in enumerate(self._periods):
            if known.lowest[index]:
                flat = self._range(part, self._store.set_key(part, period), known.read_rows, rows)
                known.lowest[index] = int(flat[-1]) if len(flat) == 2 * rows else 0
                met.update(dict.fromkeys(flat[::2]))
        known.read_rows += rows
        new = [url for url in met if url not in known.sums]
        for start in range(0, len(new), PIECE_ROWS):
            piece = new[start : start + PIECE_ROWS]
            sums = [0] * len(piece)
            for period in self._periods:
                scores = self._ask(part, ("ZMSCORE", self._store.set_key(part, period), *piece), len(piece))
                sums = [total + int(score or 0) for total, score in zip(sums, scores, strict=True)]
            known.sums.update(zip(piece, sums, strict=True))

    def _range(self, part: int, key: str, start: int, rows: int) -> Flat:
        flat: Flat = []
        for at in range(start, start + rows, PIECE_ROWS):
            stop = min(at + PIECE_ROWS, start + rows)
            more = self._ask(part, ("ZREVRANGE", key, at, stop - 1, "WITHSCORES"), stop - at)
            flat += more
            if len(more) < 2 * (stop - at):
                break
        return flat

    def _ask(self, part: int, command: Command, lookups: int) -> Flat:
        self._lookups += lookups
        if self._lookups > self._most_lookups:
            raise TooDeepError("The page is too deep to be found from the top.")
        # One command at a time: a server answers others between two, but not within a pipeline.
        (answer,) = self._store.read([(part, command)])
        return answer  # type: ignore[no-any-return]
