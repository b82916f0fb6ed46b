"""One URL: how often it was requested, where it stands, and how that came about over time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from hitledger.dispatch import Command, script
from hitledger.entries import shard_of
from hitledger.errors import NotKeptError, QueryError
from hitledger.ledger import LedgerStore
from hitledger.paths import canonical
from hitledger.periods import KINDS, Period, Retention

MOST_POINTS = 2000
"""Periods in one series: each is one look-up in the ledger, all in one round trip."""
DEFAULT_POINTS = {"hour": 48, "day": 92, "month": 60}


class Point(NamedTuple):
    """How often a URL was requested in one period of UTC."""

    period: str
    requests: int


@dataclass(frozen=True)
class UrlReport:
    """One URL. `rank` is None where it was never requested; `series` is oldest first, without gaps."""

    as_of: datetime
    url: str
    requests: int
    rank: int | None
    by: str
    series: list[Point]


def report_url(
    store: LedgerStore, retention: Retention, url: str, by: str, times: tuple[datetime, datetime] | None, now: datetime
) -> UrlReport:
    """Return one URL's report, with a series from the first time up to, not including, the second.

    Without times the series is what is kept, up to now. The URL may be written as people do.

    Raises:
        QueryError: the kind of period or the times do not fit. NotKeptError: that time is not kept.
        LedgerUnavailableError: the ledger cannot be reached.
    """
    url = canonical(url)
    periods = periods_of(retention, by, times, now)
    shard = shard_of(url, store.identity.shards)
    calls: list[tuple[int, Command]] = [(shard, ("ZSCORE", store.set_key(shard), url))]
    calls += [(shard, ("ZSCORE", store.set_key(shard, period), url)) for period in periods]
    total, *scores = (int(float(score)) if score is not None else 0 for score in store.read(calls))
    series = [Point(period.name, hits) for period, hits in zip(periods, scores, strict=True)]
    rank = rank_of(store, url, total) if total else None
    return UrlReport(now, url, total, rank, by, series)


def rank_of(store: LedgerStore, url: str, requests: int) -> int:
    """Return where a row stands in the report's order; the first is 1.

    A count and a binary search in each shard; see `lua/page.lua`.
    """
    page = script("page").sha
    shards = range(store.identity.shards)
    answers = store.read(
        [(shard, ("EVALSHA", page, 1, store.set_key(shard), 1, requests, url, "down")) for shard in shards]
    )
    # In each shard: how many rows stand before the first one behind this row.
    return sum(int(behind) for behind, _ in answers)


def periods_of(retention: Retention, by: str, times: tuple[datetime, datetime] | None, now: datetime) -> list[Period]:
    """Return the periods of a series, oldest first. Raises as `report_url`."""
    if by not in KINDS:
        raise QueryError("by", f"takes one of {', '.join(KINDS)}.")
    first_kept = retention.first_kept(by, now)
    if first_kept is None:
        raise NotKeptError(f"Counts by {by} are not kept.", _kept(retention, now))
    start, end = times or (first_kept.start, now)
    if start > now:
        raise QueryError("from", "lies in the future.")
    if end <= start:
        raise QueryError("to", "must be later than from; the time that it names is not included.")
    period = Period.containing(by, start)
    if times is None:
        period = first_kept
    elif not retention.keeps(period, now):
        raise NotKeptError(f"Counts by {by} of {period.name} are not kept.", _kept(retention, now))
    found = []
    while period.start < end and period.start <= now:
        found.append(period)
        if len(found) > MOST_POINTS:
            raise QueryError("from", f"asks for more than {MOST_POINTS:,} {by}s.")
        period = Period.containing(by, period.end + timedelta(seconds=1))
    return found[-DEFAULT_POINTS[by] :] if times is None else found


def _kept(retention: Retention, now: datetime) -> dict[str, str]:
    first = {kind: retention.first_kept(kind, now.astimezone(UTC)) for kind in KINDS}
    return {kind: period.name for kind, period in first.items() if period}
