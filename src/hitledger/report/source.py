"""Where rows come from, in parts that each stand in the report's order.

The rows of a live report are the ledger's sorted sets, one a shard, read as they stand at
each moment. Those of a report that had to be added up first are a file (`.snapshot`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from math import isqrt
from typing import Any, NamedTuple, Protocol

from hitledger.dispatch import Command, script
from hitledger.entries import Totals, shard_of
from hitledger.ledger import LedgerStore
from hitledger.periods import Period
from hitledger.report.cursor import Place

STREAM_ROWS = 5000
"""Rows that are asked for at a time when all are read: about 1 ms of a server."""

Flat = list[str]
"""Rows as the ledger tells them: URL, requests, URL, requests, ... in texts."""


class Slice(NamedTuple):
    """A piece of one part: so many rows from just behind a place, or from the top.

    `rank` is how many rows of the part stood before the piece, where a cursor remembers it.
    """

    part: int
    behind: Place | None
    rows: int
    rank: int | None = None


class Piece(NamedTuple):
    """Rows of one part, and how many stand before them."""

    rank: int
    flat: Flat


class Source(Protocol):
    """Rows in parts; each part is in order and no URL is in two."""

    parts: int
    width: int
    """Texts a row: 2, or 3 where the number of URLs stands behind the requests."""

    def read(self, slices: Sequence[Slice]) -> list[Flat]:
        """Return the slices' rows; one with fewer rows than asked for ends its part."""

    def walk(self, part: int, behind: Place | None) -> Iterator[Flat]:
        """Yield all rows of a part behind a place, in pieces."""

    def part_of(self, url: str) -> int:
        """Return the part that has a URL, if any has."""


class LiveSource:
    """All time, or one period: a sorted set a shard.

    Rows behind a place are found by a script, which searches, or at the rank that the place had
    when its cursor was made, which costs no more than the first page does. Some rows around are
    read with them: between which two of them the place lies shows whether these are the rows.
    """

    width = 2

    def __init__(self, store: LedgerStore, period: Period | None = None) -> None:
        self._store = store
        self._period = period
        self._pieces: dict[int, list[Piece]] = {}
        self.parts = store.identity.shards

    def read(self, slices: Sequence[Slice]) -> list[Flat]:
        """Read slices of shards, one round trip a server; two where ranks have shifted."""
        return self._taken(slices, self._store.read([(each.part, self._command(each)) for each in slices]))

    def totals(self) -> Totals:
        """Return the period's totals."""
        return self._store.totals(self._period)

    def read_with_totals(self, slices: Sequence[Slice]) -> tuple[Totals, list[Flat]]:
        """Read slices and the period's totals in the same round trip."""
        calls = self._store.totals_calls(self._period)
        answers = self._store.read(calls + [(each.part, self._command(each)) for each in slices])
        return Totals.of(answers[: len(calls)]), self._taken(slices, answers[len(calls) :])

    def ranks_behind(self, place: Place) -> list[int]:
        """Return for each part how many rows stand before what comes behind a place, as far as was read."""
        return [self._rank_behind(place, self._pieces.get(part, [])) for part in range(self.parts)]

    def walk(self, part: int, behind: Place | None) -> Iterator[Flat]:
        """Yield all rows of a shard behind a place, in pieces that keep nobody else waiting."""
        return walk_set(self._store, part, self._store.set_key(part, self._period), behind)

    def part_of(self, url: str) -> int:
        """Return the shard of a URL."""
        return shard_of(url, self.parts)

    def _command(self, piece: Slice) -> Command:
        key = self._store.set_key(piece.part, self._period)
        if piece.behind is None:
            return ("ZREVRANGE", key, 0, piece.rows - 1, "WITHSCORES")
        if piece.rank is None:
            return ("EVALSHA", script("page").sha, 1, key, piece.rows, *piece.behind, "down")
        first, rows = _around(piece)
        return ("ZREVRANGE", key, first, first + rows - 1, "WITHSCORES")

    def _taken(self, slices: Sequence[Slice], answers: Sequence[Any]) -> list[Flat]:
        """Return the rows of slices; those that were not where they had been are looked for by their place."""
        pieces = [piece_of(each, answer) for each, answer in zip(slices, answers, strict=True)]
        moved = [index for index, piece in enumerate(pieces) if piece is None]
        if moved:
            again = [slices[index]._replace(rank=None) for index in moved]
            found = self._store.read([(each.part, self._command(each)) for each in again])
            for index, each, answer in zip(moved, again, found, strict=True):
                pieces[index] = piece_of(each, answer)
        return [self._remembered(each, piece) for each, piece in zip(slices, pieces, strict=True) if piece]

    def _remembered(self, piece: Slice, found: Piece) -> Flat:
        self._pieces.setdefault(piece.part, []).append(found)
        return found.flat

    def _rank_behind(self, place: Place, pieces: Sequence[Piece]) -> int:
        for rank, flat in reversed(pieces):
            if rows := rows_before(place, flat):
                return rank + rows
        return pieces[0].rank if pieces else 0


def rows_before(place: Place, flat: Flat) -> int:
    """Return how many of these rows do not come behind a place."""
    rows = range(len(flat) // 2)
    return bisect_left(rows, True, key=lambda at: (int(flat[2 * at + 1]), flat[2 * at]) < place)


def _around(piece: Slice) -> tuple[int, int]:
    """Return from which rank on so many rows are read for a slice that has a rank."""
    assert piece.rank is not None
    spare = 2 + isqrt(piece.rows) // 2
    first = max(0, piece.rank - spare)
    return first, piece.rank + piece.rows + spare - first


def piece_of(piece: Slice, answer: Any) -> Piece | None:
    """Return what a slice's command found; None where the rows are not all among those that it read."""
    if piece.behind is None:
        return Piece(0, answer)
    if piece.rank is None:
        return Piece(*answer)
    first, rows = _around(piece)
    before = rows_before(piece.behind, answer)
    begins = before > 0 or first == 0
    ends = len(answer) - 2 * before >= 2 * piece.rows or len(answer) < 2 * rows
    return Piece(first + before, answer[2 * before : 2 * (before + piece.rows)]) if begins and ends else None


def walk_set(
    store: LedgerStore, shard: int, key: str, behind: Place | None = None, *, up: bool = False, raw: bool = False
) -> Iterator[list[Any]]:
    """Yield the rows of a sorted set behind a place, in the report's order or, `up`, against it.

    A URL that does not move meanwhile comes once. One that moves may come twice on the way up,
    and either twice or not at all on the way down: hits only ever raise it. `raw` gives bytes.

    Rows are found by rank where possible, which is twice as fast as by place: each piece
    begins with the last row of the one before, and where another stands there now, ranks have
    shifted and the script finds the place.
    """
    name, direction = ("ZRANGE", "up") if up else ("ZREVRANGE", "down")
    rank = 0 if behind is None else None
    last: list[Any] = []
    while True:
        flat = None
        if rank is not None:
            overlap = len(last) // 2
            (flat,) = store.read([(shard, (name, key, rank - overlap, rank + STREAM_ROWS - 1, "WITHSCORES"))], raw=raw)
            if flat[: 2 * overlap] != last:
                flat = None
            elif overlap:
                del flat[:2]
        if flat is None:
            place = (last[1], last[0]) if last else behind
            assert place is not None
            call: Command = ("EVALSHA", script("page").sha, 1, key, STREAM_ROWS, *place, direction)
            ((rank, flat),) = store.read([(shard, call)], raw=raw)
        assert rank is not None
        rank += len(flat) // 2
        if flat:
            last = flat[-2:]
            yield flat
        if len(flat) < 2 * STREAM_ROWS:
            return
