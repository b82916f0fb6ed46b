"""What posting tells of itself, for `/metrics`: how far it is, how fast, and what had to be done again.

One of a host's processes posts for all, and any process may be asked: so this goes into the
host's meters, and the latest word of any process on how far posting is holds for all.
"""

from __future__ import annotations

from collections.abc import Iterable

from hitledger.entries import Outcome
from hitledger.meters import LAST, Meters

POSTING = "posting"
"""The row with the counts at the places below."""
BATCHES, RETRIES, FAILURES = range(3)
ROUND_TRIP = "ledger round trip"
THROUGH = LAST + "posted through"
"""Microseconds since 1970 up to which the journal is posted, and how many of its bytes are."""


class Progress:
    """Keeps the figures of one poster; without meters, nothing."""

    def __init__(self, meters: Meters | None) -> None:
        self._meters = meters

    def posted(self, seconds: float, outcomes: Iterable[Outcome]) -> None:
        """Note that batches were sent together, and what became of them after so long."""
        if self._meters:
            done = [outcome.done for outcome in outcomes]
            self._meters.observe(ROUND_TRIP, int(seconds * 1e9))
            self._meters.add(POSTING, BATCHES, len(done))
            if not all(done):
                self._meters.add(POSTING, RETRIES, done.count(False))

    def came_through(self, began: float, posted_bytes: int) -> None:
        """Note that all that the journal held at a time (unix seconds) is posted, and how many bytes that is."""
        if self._meters:
            self._meters.set(THROUGH, int(began * 1e6), posted_bytes)

    def failed(self) -> None:
        """Note that a run of posting ended with an error; it is tried again."""
        if self._meters:
            self._meters.add(POSTING, FAILURES)
