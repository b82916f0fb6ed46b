"""The audit of routes by period: in each they add up to the hits whose route is known, of all that it has.

A period's routes and totals are read at one moment, so hits that arrive meanwhile make no
difference. Routes are few (`MOST_ROUTES` a shard); those of all time `audit` adds up itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from hitledger.ledger import LedgerStore
from hitledger.periods import Period, Retention


@dataclass(frozen=True)
class RoutesAudit:
    """How many periods of a shard were looked at, and what of their routes does not agree: a line each."""

    shard: int
    periods: int
    wrong: tuple[str, ...]

    def differences(self) -> Iterator[str]:
        """Yield a line for each."""
        for line in self.wrong:
            yield f"shard {self.shard}: {line}"


def audit_routes(store: LedgerStore, retention: Retention, now: datetime) -> list[RoutesAudit]:
    """Audit the routes of all periods that are kept. Raises LedgerError."""
    periods, shards = list(retention.all_kept(now)), range(store.identity.shards)
    found = []
    for shard in shards:
        there = store.read([(shard, ("EXISTS", *_keys(store, shard, each))) for each in periods])
        asked = [period for period, number in zip(periods, there, strict=True) if number]
        wrong = [line for period in asked if (line := _difference(store, shard, period))]
        found.append(RoutesAudit(shard, len(asked), tuple(wrong)))
    return found


def _keys(store: LedgerStore, shard: int, period: Period) -> tuple[str, str]:
    return store.totals_key(shard, period), store.routes_key(shard, period)


def _difference(store: LedgerStore, shard: int, period: Period) -> str:
    """Return what is wrong with the routes of a period, or nothing."""
    totals, routes = _keys(store, shard, period)
    answers = store.read_at_one_moment(
        [(shard, ("HMGET", totals, "requests", "routed")), (shard, ("ZRANGE", routes, 0, -1, "WITHSCORES"))]
    )
    assert answers is not None  # a shard is on one server
    requests, routed = (int(number or 0) for number in answers[0])
    in_routes = sum(map(int, answers[1][1::2]))
    if in_routes == routed <= requests:
        return ""
    return (
        f"of {requests:,} hits of the {period.kind} {period.name} {routed:,} have a route and its routes add up to "
        f"{in_routes:,}: {in_routes - routed:+,}"
    )
