"""Latencies, merged over tasks."""

from __future__ import annotations

import pytest

from hitledger.testrun.latency import Latencies, merged_summary


def test_nothing_has_no_summary() -> None:
    """Where nothing was answered, there are no percentiles."""
    assert Latencies().summary() is None
    assert merged_summary([]) is None
    assert merged_summary([Latencies().encode()]) is None


def test_merging_is_as_good_as_measuring_together() -> None:
    """Percentiles over several tasks are those of all their answers, to a thousandth."""
    tasks = [Latencies(), Latencies()]
    tasks[0].add(range(1, 90_001))
    tasks[1].add(range(90_001, 100_001))
    merged = merged_summary([task.encode() for task in tasks])
    assert merged is not None
    assert list(merged) == ["p50", "p90", "p99", "max"]
    assert merged == pytest.approx({"p50": 50.0, "p90": 90.0, "p99": 99.0, "max": 100.0}, rel=0.001)


def test_extremes_are_kept() -> None:
    """A time of nothing and one beyond an hour are counted at the ends of the scale."""
    latencies = Latencies()
    latencies.add([0, 10**12])
    summary = latencies.summary()
    assert summary is not None
    assert summary["p50"] == pytest.approx(0.001)
    assert summary["max"] == pytest.approx(3_600_000, rel=0.001)
