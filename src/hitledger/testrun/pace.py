"""How many requests a second a run is making just now, from two looks at how many it has made."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

PACE_SECONDS = 2
"""What a pace is taken over. Workers tell four times a second how far they are, so it is right to about an eighth."""
LEAST_SECONDS = 0.4
"""Two looks that are closer say more of when workers told than of how fast they are."""
MOST_RUNS = 64


class Pace:
    """One run's pace; for one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looks: deque[tuple[float, int]] = deque()

    def take(self, sent: int) -> float | None:
        """Take over how many requests have been sent, and return the pace of the last seconds; None while unknown."""
        now = self._clock()
        looks = self._looks
        # One more than the seconds hold, so that they are covered; not one from when nobody looked for long.
        while len(looks) > 1 and now - looks[1][0] >= PACE_SECONDS:
            looks.popleft()
        if looks and now - looks[0][0] > 2 * PACE_SECONDS:
            looks.popleft()
        looks.append((now, sent))
        seconds = now - looks[0][0]
        return max(0, sent - looks[0][1]) / seconds if seconds >= LEAST_SECONDS else None


class Paces:
    """The paces of the runs that were looked at last; for many threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._paces: OrderedDict[str, Pace] = OrderedDict()

    def take(self, run_id: str, sent: int) -> float | None:
        """Take over how far a run is, as `Pace.take`."""
        with self._lock:
            pace = self._paces.setdefault(run_id, Pace(self._clock))
            self._paces.move_to_end(run_id)
            while len(self._paces) > MOST_RUNS:
                self._paces.popitem(last=False)
            return pace.take(sent)
