"""Test runs as the web service and the command line see them: start, look, wait, cancel."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from random import SystemRandom

from hitledger.errors import LedgerError, RunUnavailableError
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
from hitledger.testrun.pool import draw_pool
from hitledger.testrun.queue import PartQueue
from hitledger.testrun.record import MOST_OPEN, RunRecords
from hitledger.testrun.run import CANCELLED, Run
from hitledger.testrun.workers import WorkerMarks

WAIT_SLICE_MS = 1000
"""A waiting reader looks this often whether the run's worker is still there; the run's end wakes it at once."""


@dataclass(frozen=True)
class RunFigures:
    """Workers that are alive, runs that have not ended, and `RunRecords.count_ended`."""

    workers: int
    open: int
    ended: dict[str, int]


class Runs:
    """Every test run of one ledger. Nothing is sent before the first call that needs it."""

    def __init__(self, settings: Settings, store: LedgerStore) -> None:
        self._workers = WorkerMarks(store)
        self._records = RunRecords(store, self._workers)
        self.queue = PartQueue(settings)

    def start(self, requests: int) -> str:
        """Queue a run of so many requests and return its id.

        Where this raises, no run was started: its record only becomes a run when all of its
        tasks are queued, and tasks without a run do nothing.

        Raises:
            RunUnavailableError: no worker is alive, the queue cannot be reached, or it is full.
            LedgerError: the ledger cannot be used.
        """
        if not self._workers.any_alive():
            raise RunUnavailableError("No worker is running.", "Start one with `hitledger worker`.")
        if self._records.count_open() >= MOST_OPEN:
            raise RunUnavailableError(f"{MOST_OPEN:,} test runs are waiting already.", "Wait for some to end.")
        run_id, parts = self._records.create(requests, draw_pool(SystemRandom()))
        try:
            self.queue.send(run_id, range(parts))
            begun = self._records.open(run_id)
        except (LedgerError, RunUnavailableError):
            with suppress(LedgerError):
                self._records.discard(run_id)
            raise
        if not begun:
            raise RunUnavailableError("Queueing the run took too long.", "Try again.")
        return run_id

    def figures(self) -> RunFigures:
        """Return what there is to tell of all runs. Raises LedgerError."""
        return RunFigures(self._workers.count_alive(), self._records.count_open(), self._records.count_ended())

    def get(self, run_id: str) -> Run | None:
        """Return a run; None where there is none, or not any more. Raises LedgerError."""
        return self._records.read(run_id)

    def list(self, limit: int = 100) -> list[Run]:
        """Return the runs asked for last, newest first. Raises LedgerError."""
        return self._records.newest(limit)

    def cancel(self, run_id: str) -> Run | None:
        """Have a run end early and return it; it ends within about a second. Raises LedgerError.

        One that has ended stays as it is.
        """
        if self._records.read(run_id) is None:
            return None
        self._records.stop(run_id, CANCELLED)
        return self._records.read(run_id)

    def wait(self, run_id: str, seconds: float) -> Run | None:
        """Return a run when it has ended, or as far as it is after so many seconds.

        Raises LedgerError where it cannot even be read once; if the ledger goes away later,
        the run is returned as it last was.
        """
        deadline = time.monotonic() + seconds
        run = self._records.read(run_id)
        with suppress(LedgerError):
            while run and not run.ended and (left_ms := int((deadline - time.monotonic()) * 1000)) > 0:
                self._records.wait(run_id, min(left_ms, WAIT_SLICE_MS))
                run = self._records.read(run_id)
        return run
