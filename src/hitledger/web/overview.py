"""The figures at the head of pages: how much is going on now, and all requests over time."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hitledger.entries import Totals
from hitledger.periods import Period
from hitledger.report import Query
from hitledger.web.chart import Chart, area_of, chart_of
from hitledger.web.services import Services

SPARK_SECONDS = 60
RATE_SECONDS = 3.0
"""A rate is taken over so long at least: posting comes in strokes."""
HISTORY_SECONDS = 5.0


@dataclass(frozen=True)
class Figures:
    """Of the whole service. `rate` is in requests a second; None until it was looked at twice."""

    as_of: datetime
    requests: int
    urls: int
    hour: int
    today: int
    yesterday: int
    rate: float | None
    most_rate: float
    spark: str


class Overview:
    """Reads the figures; remembers the last minute of them."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lock = threading.Lock()
        self._samples: deque[tuple[float, int]] = deque(maxlen=4 * SPARK_SECONDS)
        self._histories: dict[str, tuple[datetime, Chart | None]] = {}

    def figures(self) -> Figures:
        """Return the figures as they are now. Raises LedgerError."""
        store, now = self._services.store, datetime.now(UTC)
        periods = [Period.containing(kind, now) for kind in ("hour", "day")]
        periods.append(Period.containing("day", now - timedelta(days=1)))
        calls = [store.totals_calls(period) for period in (None, *periods)]
        answers = store.read([call for group in calls for call in group])
        each = len(calls[0])
        total, hour, today, yesterday = (Totals.of(answers[start : start + each]) for start in range(0, 4 * each, each))
        with self._lock:
            samples = self._sample(now.timestamp(), total.requests)
        rates = rates_of(samples)
        return Figures(
            as_of=now,
            requests=total.requests,
            urls=total.urls,
            hour=hour.requests,
            today=today.requests,
            yesterday=yesterday.requests,
            rate=rates[-1][1] if len(rates) > 1 else None,
            most_rate=max((rate for _, rate in rates), default=0.0),
            spark=area_of(rates, now.timestamp(), SPARK_SECONDS),
        )

    def _sample(self, at: float, total: int) -> list[tuple[float, int]]:
        samples = self._samples
        if samples and total < samples[-1][1]:
            samples.clear()  # the ledger was reset, or is another
        if not samples or at - samples[-1][0] >= 0.5:
            samples.append((at, total))
        while samples and at - samples[0][0] > SPARK_SECONDS + RATE_SECONDS:
            samples.popleft()
        return list(samples)

    def history(self, by: str) -> Chart | None:
        """Return all requests over time, at most some seconds old. Raises LedgerError."""
        now = datetime.now(UTC)
        with self._lock:
            kept = self._histories.get(by)
        if kept and now - kept[0] < timedelta(seconds=HISTORY_SECONDS):
            return kept[1]
        chart = chart_of(by, self._services.reports.history(by, Query()).series)
        with self._lock:
            self._histories[by] = now, chart
        return chart


def rates_of(samples: list[tuple[float, int]]) -> list[tuple[float, float]]:
    """Return (time, requests a second up to then), each over `RATE_SECONDS` or, at the beginning, less."""
    found = [(samples[0][0], 0.0)] if samples else []
    begin = 0
    for index in range(1, len(samples)):
        at, total = samples[index]
        while begin + 1 < index and at - samples[begin + 1][0] >= RATE_SECONDS:
            begin += 1
        before_at, before = samples[begin]
        found.append((at, (total - before) / max(at - before_at, 0.001)))
    return found
