"""One part of a test run, carried out: claimed, sent, and reported while it goes on.

Guarantee: a part that was begun is never begun again, because its claim stands in the run's
record. If the process ends before the part's last report, the run ends as `failed`.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from hitledger.errors import LedgerError, LedgerUnavailableError, RunError
from hitledger.settings import Settings
from hitledger.testrun.load import Load, Spans
from hitledger.testrun.pool import draw_urls
from hitledger.testrun.record import STARTING_SECONDS, RunRecords
from hitledger.testrun.run import FAILED, Part

log = logging.getLogger("hitledger.testrun")

REPORT_SECONDS = 0.25
"""How often a part says how far it is, and hears whether its run is being stopped."""
ASK_AGAIN_SECONDS = 0.002
RETRY_SECONDS = 0.2

STOPPED = "The worker was stopped in mid-run."
BROKEN = "The load could not be made; the worker's log says why."

Answer = TypeVar("Answer")


class PartRunner:
    """Carries out the parts that one worker takes, one at a time."""

    def __init__(
        self, settings: Settings, records: RunRecords, worker: str, spans: Callable[[], Spans | None] = lambda: None
    ) -> None:
        self._settings = settings
        self._spans = spans
        self._records = records
        self._worker = worker
        self._load: Load | None = None
        self._stopping = False

    def stop(self) -> None:
        """End the part that is being carried out, and begin no other. Safe in a signal handler."""
        self._stopping = True
        if self._load:
            self._load.stop()

    def run(self, run_id: str, part: int) -> None:
        """Carry out one part, unless a task has done so before, or the run has ended.

        While the ledger is away it waits for it. Told to stop meanwhile, it leaves the part
        as it is, and the run fails when the worker's mark has expired.
        """
        try:
            claim = Part(self._worker, secrets.token_hex(4))
            if self._claimed(run_id, part, claim):
                self._carry_out(run_id, part, claim)
        except LedgerError as error:
            log.warning("Part %d of test run %s was left: %s", part, run_id, error)
        finally:
            self._load = None

    def _claimed(self, run_id: str, part: int, claim: Part) -> bool:
        give_up = time.monotonic() + STARTING_SECONDS
        while time.monotonic() < give_up and not self._stopping:
            answer = self._patiently(lambda: self._records.claim(run_id, part, claim))
            if answer != "starting":
                return answer == "claimed"
            # The last of the run's tasks are being queued at this moment.
            time.sleep(ASK_AGAIN_SECONDS)
        return False

    def _carry_out(self, run_id: str, part: int, claim: Part) -> None:
        pool, count = self._patiently(lambda: self._records.share(run_id, part))
        count = min(count, self._settings.test_max_requests)
        target = self._settings.own_url
        urls = draw_urls(target, pool, count, f"{run_id}/{part}")
        load = self._load = Load(urls, min(count, self._settings.test_connections), self._spans())
        reports = _Reports(self._records, run_id, part, claim, load, len(target))
        if self._stopping:
            load.stop()
        error = reports.during(load.run)
        if self._stopping and load.sent < count:
            error = STOPPED
        if error:
            self._patiently(lambda: self._records.stop(run_id, FAILED, error))
        ended = time.time()
        self._patiently(lambda: reports.send(ended))
        # Whoever reports last finds that all parts have ended, and ends the run.
        self._patiently(lambda: self._records.read(run_id))

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        while True:
            try:
                return ask()
            except LedgerUnavailableError:
                if self._stopping:
                    raise
                time.sleep(RETRY_SECONDS)


@dataclass
class _Reports:
    """What a part's load tells the run's record, and hears from it."""

    records: RunRecords
    run_id: str
    part: int
    claim: Part
    load: Load
    target_length: int
    """How many characters of a URL come before its path."""
    told: set[str] = field(default_factory=set)
    """The URLs that the record knows of."""

    def during(self, work: Callable[[], None]) -> str:
        """Report now and then while the work is done; return what went wrong with it, or nothing."""
        done = threading.Event()
        reporter = threading.Thread(target=self._keep_reporting, args=(done,), name="hitledger-reports", daemon=True)
        reporter.start()
        try:
            work()
        except RunError as error:
            return error.message
        except Exception:
            log.exception("Part %d of test run %s could not be carried out.", self.part, self.run_id)
            return BROKEN
        finally:
            done.set()
            # One that hangs on a ledger that is away comes too late to change anything.
            reporter.join(1.0)
        return ""

    def send(self, ended: float | None = None) -> bool:
        """Report how far the part is; tell whether it shall go on."""
        load = self.load
        state = replace(self.claim, succeeded=load.succeeded, failed=load.failed, ended=ended)
        # The set is copied in one step, as far as other threads can see.
        new = load.seen.copy() - self.told
        paths = [url[self.target_length :] for url in new]
        latencies = load.latencies.encode() if ended else ""
        goes_on = self.records.report(self.run_id, self.part, state, paths, latencies)
        self.told |= new
        return goes_on

    def _keep_reporting(self, done: threading.Event) -> None:
        while not done.wait(REPORT_SECONDS):
            try:
                if not self.send():
                    self.load.stop()
            except LedgerError:
                # It is tried again soon, with all that was missed.
                continue
