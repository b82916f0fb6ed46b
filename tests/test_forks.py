"""forks: in a child, everything that asked begins anew, whatever becomes of the others."""

from __future__ import annotations

import os

from hitledger.counting import JOURNAL, RECEIVED, HitCounter
from hitledger.forks import tell_of_forks
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings


class Told:
    """Notes what it is told, and may fail."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.times = 0
        tell_of_forks(self)

    def after_fork_in_child(self) -> None:
        """Note it."""
        self.times += 1
        if self.error:
            raise self.error


def test_all_are_told_in_the_child_alone() -> None:
    """Each is told once in the child, though all others fail, even by what ends a program; in the parent none is."""
    told = [Told(error) for _ in range(10) for error in (None, ValueError("fails"), SystemExit(1))]
    child = os.fork()
    if not child:
        os._exit(0 if all(each.times == 1 for each in told) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not any(each.times for each in told)


def test_the_meters_have_all_hits_of_a_child(settings: Settings, store: LedgerStore) -> None:
    """A child that has counted more than its parent before anybody looks is told of whole, and the parent once."""
    counter = HitCounter(settings, store)
    counter.journal._on_open = lambda: None  # no background looks before the test does
    for _ in range(3):
        counter.note(b"/parent", "200")
    counter._maintain()
    child = os.fork()
    if not child:
        for _ in range(5):
            counter.note(b"/child", "200")
        counter._maintain()
        counter.meters.save()
        os._exit(0)
    os.waitpid(child, 0)
    assert counter.meters.read()[JOURNAL][RECEIVED] == 8
    counter.stop()
