"""The rows of a table: a report's numbers, and beside them what tells at a glance what they mean."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hitledger.dispatch import Command
from hitledger.entries import shard_of
from hitledger.errors import LedgerError
from hitledger.ledger import LedgerStore
from hitledger.periods import Period
from hitledger.report import Page
from hitledger.report.page import ROUTES, SECTIONS
from hitledger.web.trend import QUIET, Trend, trend_of

log = logging.getLogger("hitledger.web")

HOURS = 24
PAST_SECONDS = 60.0
"""Hours that are over still change while late hits are posted: they are read again after this."""
MOST_REMEMBERED = 5000
HoursOf = Callable[[Sequence[str], datetime], dict[str, list[int]]]
"""From URLs and the time that it is to their hits in each of the last hours."""


@dataclass(frozen=True)
class TableRow:
    """One URL, section or route.

    `share` is in per cent; `hours` the last ones, oldest first: empty where they are unknown.
    """

    rank: int
    name: str
    requests: int
    share: float
    urls: int | None = None
    is_section: bool = False
    hours: Sequence[int] = ()
    trend: Trend = QUIET


class RecentHours:
    """How often URLs were requested in each of the last hours; what is over is asked for once a minute.

    While the ledger is away, what was read last is returned.
    """

    def __init__(self, store: LedgerStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._past: OrderedDict[str, tuple[str, float, list[int]]] = OrderedDict()

    def of(self, urls: Sequence[str], now: datetime, *, away: bool = False) -> dict[str, list[int]]:
        """Return the hits of each URL by hour, oldest first; where the ledger is known to be away, it is not asked."""
        try:
            if not away:
                return self._read_anew(urls, now)
        except LedgerError as error:
            log.debug("the last hours are those that were last read: %s", error)
        with self._lock:
            return {url: self._past[url][2] for url in urls if url in self._past}

    def _read_anew(self, urls: Sequence[str], now: datetime) -> dict[str, list[int]]:
        hours = [Period.containing("hour", now - timedelta(hours=back)) for back in range(HOURS - 1, -1, -1)]
        with self._lock:
            past = {url: known for url in urls if (known := self._known(url, hours[-1].name)) is not None}
        missing = self._read([url for url in urls if url not in past], hours)
        latest = self._read(list(past), hours[-2:])
        found = missing | {url: [*past[url], *hits] for url, hits in latest.items()}
        with self._lock:
            for url, hits in found.items():
                read_at = self._past[url][1] if url in latest and url in self._past else time.monotonic()
                self._past[url] = hours[-1].name, read_at, hits
            while len(self._past) > MOST_REMEMBERED:
                self._past.popitem(last=False)
        return found

    def _known(self, url: str, hour: str) -> list[int] | None:
        at_hour, read_at, hits = self._past.get(url, ("", 0.0, []))
        return hits[:-2] if at_hour == hour and time.monotonic() - read_at < PAST_SECONDS else None

    def _read(self, urls: Sequence[str], hours: Sequence[Period]) -> dict[str, list[int]]:
        """Ask only the shards that the URLs are in, all in one round trip."""
        by_shard: dict[int, list[str]] = {}
        for url in urls:
            by_shard.setdefault(shard_of(url, self._store.identity.shards), []).append(url)
        calls: list[tuple[int, Command]] = [
            (shard, ("ZMSCORE", self._store.set_key(shard, hour), *group))
            for shard, group in by_shard.items()
            for hour in hours
        ]
        answers = iter(self._store.read(calls) if calls else ())
        found: dict[str, list[int]] = {}
        for group in by_shard.values():
            by_hour = [next(answers) for _ in hours]
            for url, scores in zip(group, zip(*by_hour, strict=True), strict=True):
                found[url] = [int(float(score)) if score is not None else 0 for score in scores]
        return found


def rows_of_page(page: Page, rank: int, hours_of: HoursOf) -> list[TableRow]:
    """Return the rows of a page, the first of which has this rank; hours and trends of the URLs that have some."""
    total = page.section.requests if page.section else page.total_requests
    if page.columns == ROUTES:
        return [
            TableRow(rank + index, row.route, row.requests, percent(row.requests, total))
            for index, row in enumerate(page.routes)
        ]
    if page.columns == SECTIONS:
        prefix = page.section.prefix if page.section else ""
        return [
            TableRow(rank + index, row.section, row.requests, percent(row.requests, total), row.urls,
                     is_section=row.section.endswith("/") and row.section != prefix)
            for index, row in enumerate(page.sections)
        ]  # fmt: skip
    now = datetime.now(UTC)
    hours = hours_of([row.url for row in page.rows], now)
    elapsed = (now - Period.containing("hour", now).start) / timedelta(hours=1)
    return [
        TableRow(
            rank + index,
            row.url,
            row.requests,
            percent(row.requests, total),
            hours=(by_hour := hours.get(row.url, [])),
            trend=trend_of(by_hour[-1], by_hour[-2], elapsed) if by_hour else QUIET,
        )
        for index, row in enumerate(page.rows)
    ]


def percent(part: int, whole: int) -> float:
    """Return a share in per cent."""
    return 100 * part / whole if whole else 0.0
