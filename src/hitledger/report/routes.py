"""Requests by route, as posting counts them beside the URLs, added up over periods and shards.

A shard has at most `MOST_ROUTES` of them and applications a few hundred, so they are read whole:
each period's at one moment with its total, shard by shard. What of the total is on no route has
none that anyone knows. So routes and lines add up to the total exactly, whoever posts meanwhile.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hitledger.dispatch import Command
from hitledger.ledger import LedgerStore
from hitledger.paths import NO_ROUTE, OVERFLOW, route_of
from hitledger.periods import Period
from hitledger.report.cursor import Place
from hitledger.report.merge import flat_again, sortable
from hitledger.report.source import STREAM_ROWS, Flat

Sets = Sequence[Period | None]
"""Periods; None is all time."""


@dataclass
class Routed:
    """Requests by route, and all requests of the same moments."""

    total: int = 0
    routes: dict[bytes, int] = field(default_factory=dict)

    def note(self, total: int, flat: Sequence[str]) -> None:
        """Add what one period of one shard has: its total, and its routes and their hits in turn."""
        self.total += total
        for name, hits in zip(flat[::2], flat[1::2], strict=True):
            # As posting keeps it already; what else somebody wrote into a journal breaks no row's form.
            route = route_of(name)
            self.routes[route] = self.routes.get(route, 0) + int(hits)

    def split(self) -> tuple[dict[bytes, int], dict[str, int]]:
        """Return the routes, and the lines beside them; together they are the total."""
        lines = {NO_ROUTE: self.total - sum(self.routes.values()), OVERFLOW: self.routes.get(OVERFLOW.encode(), 0)}
        return {route: hits for route, hits in self.routes.items() if route != OVERFLOW.encode()}, lines


class CountedRoutes:
    """The routes of a ledger in some periods."""

    def __init__(self, store: LedgerStore, periods: Sets) -> None:
        self._store = store
        self._periods = periods

    def count(self) -> int:
        """Return how many entries of the ledger `read` reads."""
        return sum(map(sum, self._sizes()))

    def read(self) -> Routed:
        """Return the routes. Raises LedgerError."""
        found = Routed()
        for shard, sizes in enumerate(self._sizes()):
            for periods in self._pieces(sizes):
                calls = [(shard, command) for period in periods for command in self._commands(shard, period)]
                answers = self._store.read_at_one_moment(calls)
                assert answers is not None, "a shard is on one server, and no script was called"
                for total, flat in zip(answers[::2], answers[1::2], strict=True):
                    found.note(int(total or 0), flat)
        return found

    def _sizes(self) -> list[list[int]]:
        """Return how many routes each period of each shard has."""
        shards, store, count = range(self._store.identity.shards), self._store, len(self._periods)
        answers = store.read(
            [(shard, ("ZCARD", store.routes_key(shard, each))) for shard in shards for each in self._periods]
        )
        return [answers[shard * count : (shard + 1) * count] for shard in shards]

    def _pieces(self, sizes: Sequence[int]) -> Iterator[Sets]:
        """Yield periods whose routes keep nobody else waiting for long where they are read together."""
        piece: list[Period | None] = []
        room = STREAM_ROWS
        for period, size in zip(self._periods, sizes, strict=True):
            room -= size + 1
            if piece and room < 0:
                yield piece
                piece, room = [], STREAM_ROWS - size - 1
            piece.append(period)
        yield piece

    def _commands(self, shard: int, period: Period | None) -> tuple[Command, Command]:
        store = self._store
        return (
            ("HGET", store.totals_key(shard, period), "requests"),
            ("ZRANGE", store.routes_key(shard, period), 0, -1, "WITHSCORES"),
        )


def with_lines(pieces: Iterator[Flat], lines: Mapping[str, int], behind: Place | None) -> Iterator[Flat]:
    """Yield routes in order and, each in its place, the lines that have requests; all of them behind a place."""
    known = [text for name, hits in lines.items() if hits for text in (name, str(hits))]
    waiting = sorted(sortable(known))
    if behind:
        (here,) = sortable([behind[1], str(behind[0])])
        del waiting[bisect_left(waiting, here) :]
    for flat in pieces:
        rows = sortable(flat)
        cut = bisect_left(waiting, rows[-1])
        yield flat_again(sorted([*rows, *waiting[cut:]], reverse=True))
        del waiting[cut:]
    if waiting:
        yield flat_again(waiting[::-1])
