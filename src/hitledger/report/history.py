"""All requests over time: how many came in each hour, day or month."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from hitledger.dispatch import Command
from hitledger.ledger import LedgerStore
from hitledger.periods import Retention
from hitledger.report.single import Point, periods_of


@dataclass(frozen=True)
class History:
    """The requests of the whole service, lines included; `series` is oldest first, without gaps."""

    as_of: datetime
    by: str
    series: list[Point]


def report_history(
    store: LedgerStore, retention: Retention, by: str, times: tuple[datetime, datetime] | None, now: datetime
) -> History:
    """Return the totals of periods of a kind, from the first time up to, not including, the second.

    Without times the series is what is kept, up to now. One look-up a shard and period, all in one round trip.

    Raises:
        QueryError: the kind of period or the times do not fit. NotKeptError: that time is not kept.
        LedgerUnavailableError: the ledger cannot be reached.
    """
    periods = periods_of(retention, by, times, now)
    shards = store.identity.shards
    calls: list[tuple[int, Command]] = [
        (shard, ("HGET", store.totals_key(shard, period), "requests")) for period in periods for shard in range(shards)
    ]
    answers = [int(text or 0) for text in store.read(calls)]
    sums = [sum(answers[start : start + shards]) for start in range(0, len(answers), shards)]
    return History(now, by, [Point(period.name, hits) for period, hits in zip(periods, sums, strict=True)])
