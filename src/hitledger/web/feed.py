"""What many tabs watch, drawn for all of them together.

Promised here: a process draws a fragment at most once a second however many tabs ask for it, and
at most `MOST_DRAWN_A_SECOND` fragments in all. Beyond that tabs get what was drawn last, which says
of when it is. A tab whose fragment was never drawn, or is being drawn for the first time, is told to
ask again; nobody waits.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

FRESH_SECONDS = 0.9
"""A little less than tabs wait between two questions, so that each finds something new."""
MOST_DRAWN_A_SECOND = 12
MOST_KEPT = 256


@dataclass(frozen=True)
class Fragment:
    """A piece of a page, as it is and compressed."""

    body: bytes
    compressed: bytes


@dataclass
class _Place:
    """Where one fragment is kept; whoever draws it holds the lock."""

    drawing: threading.Lock = field(default_factory=threading.Lock)
    fragment: Fragment | None = None
    drawn_at: float = float("-inf")


class Feed:
    """The fragments of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._places: OrderedDict[str, _Place] = OrderedDict()
        self._allowed = float(MOST_DRAWN_A_SECOND)
        self._allowed_at = clock()

    def fragment(self, asked: str, draw: Callable[[], str], fresh_seconds: float = FRESH_SECONDS) -> Fragment | None:
        """Return the fragment that was asked for; None where the tab shall ask again. Raises as `draw`."""
        place = self._place(asked)
        if self._clock() - place.drawn_at < fresh_seconds or not place.drawing.acquire(blocking=False):
            return place.fragment
        try:
            if self._clock() - place.drawn_at >= fresh_seconds and self._may_draw():
                body = draw().encode()
                place.fragment = Fragment(body, gzip.compress(body, compresslevel=1, mtime=0))
                place.drawn_at = self._clock()
            return place.fragment
        finally:
            place.drawing.release()

    def _place(self, asked: str) -> _Place:
        with self._lock:
            place = self._places.setdefault(asked, _Place())
            self._places.move_to_end(asked)
            while len(self._places) > MOST_KEPT:
                self._places.popitem(last=False)
            return place

    def _may_draw(self) -> bool:
        """Take one of the second's drawings, if one is left."""
        with self._lock:
            now = self._clock()
            gained = (now - self._allowed_at) * MOST_DRAWN_A_SECOND
            self._allowed, self._allowed_at = min(float(MOST_DRAWN_A_SECOND), self._allowed + gained), now
            if self._allowed < 1:
                return False
            self._allowed -= 1
            return True
