"""The worker process: takes parts of test runs from the queue, one at a time.

A part keeps a core busy and runs right in the process's main thread; more workers are more
processes. Beside it, threads say that the worker is alive and look after runs that nobody
looks after: those whose worker was lost end, and tasks that were lost are queued again.
"""

from __future__ import annotations

import logging
import resource
import secrets
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Protocol

from celery.worker import state as celery_state

from hitledger.errors import HitledgerError, LedgerError, ServiceError
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
from hitledger.testrun.load import Spans
from hitledger.testrun.part import PartRunner
from hitledger.testrun.queue import PartQueue
from hitledger.testrun.record import RunRecords
from hitledger.testrun.workers import BEAT_SECONDS, WorkerMarks

log = logging.getLogger("hitledger.testrun")

SWEEP_SECONDS = 5.0
MOST_FILES = 65_536


class Tracing(Protocol):
    """What makes the spans of a worker, where traces are on."""

    def requests(self) -> Spans | None:
        """Return what is told of the requests of the part that is carried out now."""

    def trace_queue(self, queue: PartQueue) -> None:
        """Make spans of the tasks that come by a queue."""

    def close(self) -> None:
        """Send what there is."""


def run_worker(settings: Settings, tracing: Tracing | None = None) -> None:
    """Be a worker until SIGTERM or SIGINT, then leave within a few seconds. Needs the main thread.

    Raises:
        LedgerError: no ledger is set.
        ServiceError: the worker broke down.
    """
    store = LedgerStore(settings)
    try:
        _Worker(settings, store, tracing).run()
    finally:
        store.close()
        if tracing:
            tracing.close()


class _Worker:
    """One worker, under an id that no other has or will have."""

    def __init__(self, settings: Settings, store: LedgerStore, tracing: Tracing | None) -> None:
        self._id = secrets.token_hex(8)
        self._marks = WorkerMarks(store)
        self._records = RunRecords(store, self._marks)
        self._queue = PartQueue(settings)
        self._parts = PartRunner(settings, self._records, self._id, tracing.requests if tracing else lambda: None)
        self._tracing = tracing
        self._seen = False
        self._threads = [
            _Repeated(BEAT_SECONDS, self._beat),
            _Repeated(SWEEP_SECONDS, self._sweep),
        ]

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        _allow_files(MOST_FILES)
        self._queue.carry_out_with(self._parts.run)
        if self._tracing:
            self._tracing.trace_queue(self._queue)
        # Not the worker program: that would take over signals, logging and the terminal.
        controller = self._queue.app.WorkController(
            pool="solo",
            concurrency=1,
            hostname=f"hitledger@{self._id}",
            ready_callback=self._ready,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        try:
            controller.start()
        finally:
            for thread in self._threads:
                thread.stop()
            with suppress(LedgerError):
                self._marks.leave(self._id)
        if controller.exitcode:
            raise ServiceError("The worker broke down.", "Its log says why.")

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        celery_state.should_stop = 0
        self._parts.stop()

    def _ready(self, _consumer: object) -> None:
        """Begin to be seen; called again after each reconnection to the broker."""
        for thread in self._threads:
            thread.start()

    def _beat(self) -> None:
        self._marks.beat(self._id)
        if not self._seen:
            self._seen = True
            log.info("The worker takes test runs.")

    def _sweep(self) -> None:
        unclaimed = self._records.sweep()
        if unclaimed and self._queue.is_empty():
            # Their tasks are lost, or being claimed at this moment; a part is claimed once either way.
            for run_id, parts in unclaimed.items():
                self._queue.send(run_id, parts)


class _Repeated:
    """A background thread that does something again and again, whatever becomes of it."""

    def __init__(self, seconds: float, action: Callable[[], None]) -> None:
        self._seconds = seconds
        self._action = action
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="hitledger-worker", daemon=True)

    def start(self) -> None:
        """Start now; once it runs, this changes nothing."""
        if not self._thread.is_alive():
            self._thread.start()

    def stop(self) -> None:
        """Let it end, and wait a second for that."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _repeat(self) -> None:
        while True:
            try:
                self._action()
            except HitledgerError as error:
                # What cannot be reached now is tried again.
                log.debug("%s", error)
            except Exception:
                log.exception("The worker stumbled, and goes on.")
            if self._stopped.wait(self._seconds):
                return


def _allow_files(most: int) -> None:
    """Raise this process's limit of open files as far as it may: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
