"""A short storm; the long ones are `make storm` and `.ci/run storm`."""

from __future__ import annotations

from tests.storm.schedule import KINDS, schedule
from tests.storm.storm import Plan, run


def test_nothing_is_lost_or_doubled_in_a_storm() -> None:
    """Whatever is killed, stopped or cut, each answered request is in the ledger once, and the books agree."""
    verdict = run(Plan(seed=3, seconds=4, pace=7, shards=2))
    assert not verdict.violations, str(verdict)
    assert verdict.kills > 3
    assert verdict.answered > 200


def test_a_seed_gives_the_same_faults_again() -> None:
    """A schedule is drawn from its seed alone, has every kind of fault, and keeps to its pace."""
    faults = schedule(1, 1000, 3)
    assert faults == schedule(1, 1000, 3) != schedule(2, 1000, 3)
    assert {fault.name for fault in faults} == set(KINDS)
    assert 2500 < len(faults) < 3500
