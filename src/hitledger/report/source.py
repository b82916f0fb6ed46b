"""Where rows come from, in parts that each stand in the report's order.

The rows of a live report are the ledger's sorted sets, one a shard. `read` asks several parts
in one round trip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from hitledger.ledger import Command, LedgerStore, Totals, script
from hitledger.periods import Period
from hitledger.report.cursor import Place


class Slice(NamedTuple):
    """A piece of one part: so many rows from just behind a place, or from the top."""

    part: int
    behind: Place | None
    rows: int


class Source(Protocol):
    """Rows in parts; each part is in order and no URL is in two."""

    parts: int

    def read(self, slices: Sequence[Slice]) -> list[list[str]]:
        """Return the slices' rows, flat: URL, requests, URL, requests, ...

        A slice with fewer rows than asked for ends its part.
        """


class LiveSource:
    """All time, or one period: a sorted set a shard, as it stands at the moment of each reading."""

    def __init__(self, store: LedgerStore, period: Period | None = None) -> None:
        self._store = store
        self._period = period
        self.parts = store.identity.shards

    def read(self, slices: Sequence[Slice]) -> list[list[str]]:
        """Read slices of shards, one round trip a server."""
        return self._store.read([(each.part, self._command(each)) for each in slices])

    def read_with_totals(self, slices: Sequence[Slice]) -> tuple[Totals, list[list[str]]]:
        """Read slices and the period's totals in the same round trip."""
        calls = self._store.totals_calls(self._period)
        answers = self._store.read(calls + [(each.part, self._command(each)) for each in slices])
        return Totals.of(answers[: len(calls)]), answers[len(calls) :]

    def _command(self, piece: Slice) -> Command:
        key = self._store.set_key(piece.part, self._period)
        if piece.behind is None:
            return ("ZREVRANGE", key, 0, piece.rows - 1, "WITHSCORES")
        return ("EVALSHA", script("page").sha, 1, key, piece.rows, *piece.behind)
