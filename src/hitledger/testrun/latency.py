"""How long answers took: HdrHistograms that are collected in tasks, sent as text, and merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from hdrh.histogram import HdrHistogram

MOST_MICROSECONDS = 3_600_000_000
DIGITS = 3
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0}


class Latencies:
    """Times in microseconds, from one up to an hour, kept to three digits."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(1, MOST_MICROSECONDS, DIGITS)

    def add(self, microseconds: Iterable[int]) -> None:
        """Add times, many at once: equal ones share the price of one."""
        for time, count in Counter(microseconds).items():
            self._histogram.record_value(min(max(time, 1), MOST_MICROSECONDS), count)

    def encode(self) -> str:
        """Return all of them as text: HdrHistogram's own format, compressed, in base64."""
        return str(self._histogram.encode(), "ascii")

    def add_encoded(self, text: str) -> None:
        """Add what `encode` returned elsewhere."""
        self._histogram.decode_and_add(text)

    def summary(self) -> dict[str, float] | None:
        """Return p50, p90, p99 and max in milliseconds; None where there is nothing."""
        if not self._histogram.get_total_count():
            return None
        values = self._histogram.get_percentile_to_value_dict(list(PERCENTILES.values()))
        found = {name: values[percentile] for name, percentile in PERCENTILES.items()}
        found["max"] = self._histogram.get_max_value()
        return {name: round(microseconds / 1000, 3) for name, microseconds in found.items()}


def merged_summary(encoded: Iterable[str]) -> dict[str, float] | None:
    """Return the summary of several tasks' latencies together."""
    together = Latencies()
    for text in encoded:
        together.add_encoded(text)
    return together.summary()
