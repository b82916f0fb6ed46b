"""Where rows come from, in parts that each stand in the report's order.

The rows of a live report are the ledger's sorted sets, one a shard, read as they stand at
each moment. Those of a report that had to be added up first are a file (`.snapshot`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    """A piece of one part: so many rows from just behind a place, or from the top."""

    part: int
    behind: Place | None
    rows: int


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
    """All time, or one period: a sorted set a shard."""

    width = 2

    def __init__(self, store: LedgerStore, period: Period | None = None) -> None:
        self._store = store
        self._period = period
        self.parts = store.identity.shards

    def read(self, slices: Sequence[Slice]) -> list[Flat]:
        """Read slices of shards, one round trip a server."""
        answers = self._store.read([(each.part, self._command(each)) for each in slices])
        return _rows_of(slices, answers)

    def totals(self) -> Totals:
        """Return the period's totals."""
        return self._store.totals(self._period)

    def read_with_totals(self, slices: Sequence[Slice]) -> tuple[Totals, list[Flat]]:
        """Read slices and the period's totals in the same round trip."""
        calls = self._store.totals_calls(self._period)
        answers = self._store.read(calls + [(each.part, self._command(each)) for each in slices])
        return Totals.of(answers[: len(calls)]), _rows_of(slices, answers[len(calls) :])

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
        return ("EVALSHA", script("page").sha, 1, key, piece.rows, *piece.behind, "down")


def _rows_of(slices: Sequence[Slice], answers: Sequence[Any]) -> list[Flat]:
    return [answer[1] if each.behind else answer for each, answer in zip(slices, answers, strict=True)]


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
