"""`hitledger.Counter`: counting without HTTP, for jobs, workers and whatever else is Python.

Guarantee: hits for which `Counter.count` has returned True are whole in the journal, in one
record, as a request's hit is: no kill of any process loses them, and nothing books them twice.
Posting is the background's, this process's or another's; a process that ends in good order
gives its own a few seconds to bring the rest into the ledger.
"""

from __future__ import annotations

import atexit
import time
from types import TracebackType
from typing import Self

from hitledger.counting import HitCounter
from hitledger.errors import CountError, JournalError
from hitledger.journal import MOST_HITS
from hitledger.paths import path_of

CLOSE_SECONDS = 5.0
"""How long the end of a process may wait for the last of its hits to be posted."""


class Counter:
    """Count hits that are no request of a web application.

        with hitledger.Counter() as counter:
            counter.count("/jobs/resize", 3)

    One is enough for a process: it is for any number of threads, and for processes that are forked
    off, whose hits it counts as their own. It is set by the same `HITLEDGER_*` as the middlewares
    and raises as `HitCounter.from_environment` does. Beside one of them in the same process,
    `Counter(app.counter)` shares its journal, and leaves its end to the application.
    """

    def __init__(self, counter: HitCounter | None = None) -> None:
        self.counter = counter or HitCounter.from_environment()
        self._closed = False
        if counter is None:
            _own.append(self.counter)

    def count(self, path: str, hits: int = 1, *, route: str | None = None) -> bool:
        """Journal hits on a path, all of them in one record; return False where they are lost.

        `path` begins with a slash and is read as the URL of a request is: percent-encoded or not, its
        query string ignored. So `/käse`, `/k%C3%A4se` and what a report shows are the same. Hits are
        lost where the journal cannot take them, and are then in the balance as such.

        Raises:
            CountError: the path is none, or the hits are not 1 to 1,000,000,000; nothing is counted.
            JournalError: the journal cannot take them, and HITLEDGER_ON_JOURNAL_FAILURE is refuse.
        """
        target = _read_path(path)
        _check(hits, route)
        if self._closed:
            raise CountError("This counter is closed.", "Count before its end, or make another.")
        counter = self.counter
        is_journalled = (not counter.refuses or counter.journal.writable) and counter.count(target, hits, route)
        if counter.refuses and not is_journalled:
            raise JournalError("The journal cannot be written: the hits are not counted.", "See its folder's disk.")
        return is_journalled

    def close(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Post what is in the journal and end the background; return False where that takes longer.

        Never raises: what is not posted in time, or because the ledger is away, stays in the
        journal for another process of the host, or the next start. At a normal exit of the
        interpreter this is done for every counter that is still open.
        """
        self._closed = True
        if self.counter not in _own:
            return True
        _own.remove(self.counter)
        return _stop(self.counter, seconds)

    def __enter__(self) -> Self:
        """Use it as a context that closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


def _read_path(path: object) -> bytes:
    """Return the bytes of a path that a program gave. Raises CountError."""
    if isinstance(path, str) and path.startswith("/"):
        try:
            return path_of(path)
        except UnicodeEncodeError:  # half of a surrogate pair
            pass
    raise CountError(f"{path!r:.100} is no path.", "Give a text that begins with /, such as /jobs/resize.")


def _check(hits: object, route: object) -> None:
    """Raise CountError for what is no number of hits, or no route."""
    if not isinstance(hits, int) or isinstance(hits, bool) or not 1 <= hits <= MOST_HITS:
        raise CountError(f"{hits!r:.50} is no number of hits.", f"Give a whole number from 1 to {MOST_HITS:,}.")
    if route is not None and not (isinstance(route, str) and route):
        raise CountError(f"{route!r:.50} is no route.", "Give its template, such as /product/<id>, or None.")


_own: list[HitCounter] = []
"""Those that were made here and are not closed; their threads keep them alive in any case."""


def _stop(counter: HitCounter, seconds: float) -> bool:
    # Children that were forked off leave their hits to whoever posts: only a thread can post within a bound.
    counter.start()
    return counter.stop(seconds)


@atexit.register
def _stop_all() -> None:
    deadline = time.monotonic() + CLOSE_SECONDS
    while _own:
        _stop(_own.pop(), max(0.0, deadline - time.monotonic()))
