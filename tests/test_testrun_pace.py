"""A run's pace: what the last seconds made, and nothing where that cannot be told."""

from __future__ import annotations

from hitledger.testrun.pace import MOST_RUNS, PACE_SECONDS, Pace, Paces


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_a_pace_is_that_of_the_last_seconds() -> None:
    """A run that was fast and has become slow has the pace of now, and not the mean since it began."""
    clock = Clock()
    pace = Pace(clock)
    sent = 0
    assert pace.take(sent) is None
    for requests_a_second in (4000, 4000, 4000, 4000, 4000, 4000, 100, 100, 100, 100, 100):
        clock.now += 0.5
        sent += requests_a_second // 2
        last = pace.take(sent)
    assert last == 100
    clock.now += PACE_SECONDS
    assert pace.take(sent) == 0


def test_looks_too_close_or_too_far_apart_tell_no_pace() -> None:
    """Two looks within a moment say nothing, nor does one from long ago."""
    clock = Clock()
    pace = Pace(clock)
    pace.take(0)
    clock.now += 0.1
    assert pace.take(900) is None
    clock.now += 60
    assert pace.take(100_000) is None
    clock.now += 1
    assert pace.take(103_000) == 3000


def test_paces_are_kept_apart_and_bounded() -> None:
    """Each run has its own pace; those that nobody looks at any more are forgotten."""
    clock = Clock()
    paces = Paces(clock)
    for run in ("A", "B"):
        paces.take(run, 0)
    clock.now += 1
    assert [paces.take("A", 10), paces.take("B", 20)] == [10, 20]
    for number in range(MOST_RUNS):
        paces.take(str(number), 0)
    clock.now += 1
    assert paces.take("A", 40) is None
