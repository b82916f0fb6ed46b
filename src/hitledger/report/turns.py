"""Reports that a process's own threads work on: one at a time, and only so many wait for that.

A process has one interpreter lock. Sixteen threads that add up, search or count do none of it
sooner than one, and everybody else's first page waits behind all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hitledger.errors import ReportBusyError

RETRY_SECONDS = 1


class Turns:
    """A process's turns at work on reports."""

    def __init__(self, places: int, wait_seconds: float) -> None:
        """Let `places` threads be at work or wait for it, each at most so long."""
        self._places = threading.BoundedSemaphore(places)
        self._wait_seconds = wait_seconds
        self._at_work = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for this thread's turn, and hold it. Raises ReportBusyError."""
        if not self._places.acquire(blocking=False):
            raise ReportBusyError("Other reports are being worked on.", RETRY_SECONDS)
        try:
            if not self._at_work.acquire(timeout=self._wait_seconds):
                raise ReportBusyError("Other reports are being worked on.", RETRY_SECONDS)
            try:
                yield
            finally:
                self._at_work.release()
        finally:
            self._places.release()
