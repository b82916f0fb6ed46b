"""The background of a process that counts: one thread keeps the journal, another posts.

They are two so that the journal is synced on time, and its cap held, while posting waits for
a ledger that is away.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from hitledger.errors import HitledgerError, LedgerError, LedgerUnavailableError
from hitledger.forks import tell_of_forks
from hitledger.posting import Poster

log = logging.getLogger("hitledger.posting")

SYNC_SECONDS = 0.1
"""How often the journal is synced: what a power cut may lose with `journal_sync=interval`."""
BEHIND_SECONDS = 10.0
"""A round of posting that takes longer is worth a line."""
MOST_PAUSE_SECONDS = 2.0
"""Longest pause between two tries while the ledger is away."""


class Bookkeeper:
    """The background threads of a process: one calls `maintain`, the other `poster.round`."""

    def __init__(self, poster: Poster, maintain: Callable[[], None], interval_seconds: float) -> None:
        self._poster = poster
        self._maintain = maintain
        self._interval = interval_seconds
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._pid = 0
        self._starting = threading.Lock()
        self._round_began = float("inf")
        self._behind = False
        tell_of_forks(self)

    def start(self) -> None:
        """Start the threads where this process has none yet: also after a fork."""
        with self._starting:
            if self._pid == os.getpid():
                return
            self._pid = os.getpid()
            self._stop = threading.Event()
            self._round_began = float("inf")
            work = {"hitledger-journal": self._keep_journal, "hitledger-posting": self._post}
            self._threads = []
            try:
                self._threads = [threading.Thread(target=each, name=name, daemon=True) for name, each in work.items()]
                for thread in self._threads:
                    thread.start()
            except RuntimeError as error:
                # At the interpreter's exit, at a limit, or in an interpreter that takes no daemon threads:
                # whoever counts must not suffer for it.
                log.error("hits wait in the journal for another process: %s", error)  # noqa: TRY400 - a state

    def stop(self, seconds: float | None = None) -> bool:
        """End the threads, sync the journal and post what there is, if the ledger answers.

        Return False where this takes longer than `seconds`: it then goes on beside the caller, while
        the process lives. No thread is started for it, because at the interpreter's exit none can be.
        """
        self._stop.set()
        if self._pid == os.getpid() and self._threads and self._threads[-1].is_alive():
            self._threads[-1].join(seconds)
            return not self._threads[-1].is_alive()
        self._finish()
        return True

    def _finish(self) -> None:
        try:
            self._maintain()
            self._poster.post_now()
        except LedgerError as error:
            log.warning("stopped with hits still in the journal: %s They are posted at the next start.", error)
        except Exception:
            log.exception("stopped with hits still in the journal; they are posted at the next start")

    def _keep_journal(self) -> None:
        failing = False
        while not self._stop.wait(SYNC_SECONDS):
            self._tell_if_behind()
            try:
                self._maintain()
                failing = False
            except Exception:
                if not failing:
                    log.exception("the journal cannot be looked after; it is tried again")
                failing = True

    def _tell_if_behind(self) -> None:
        """Say once that a round of posting goes on and on: more is to be posted than the ledger takes."""
        behind = time.monotonic() - self._round_began > BEHIND_SECONDS
        if behind and not self._behind:
            waiting = self._poster.status.pending_bytes
            log.warning("posting is behind: %s bytes of the journal wait", waiting, extra={"pending_bytes": waiting})
        elif self._behind and not behind:
            log.warning("posting has caught up")
        self._behind = behind

    def _post(self) -> None:
        pause, refusal = self._interval, ""
        while not self._stop.wait(pause):
            self._round_began = time.monotonic()
            try:
                # One of a host's processes posts for all: half the work, and fewer pauses for requests.
                if not self._poster.is_done_elsewhere(1.5 * self._interval):
                    self._poster.round()
                if pause > self._interval:
                    log.warning("the ledger is back; posting goes on")
                pause, refusal = self._interval, ""
            except LedgerUnavailableError as error:
                if pause <= self._interval:
                    log.warning("posting waits: %s", error)
                pause = min(MOST_PAUSE_SECONDS, pause * 2)
            except HitledgerError as error:
                if str(error) != refusal:
                    log.error("posting failed: %s", error)  # noqa: TRY400 - the ledger's answer, not a crash
                pause, refusal = min(MOST_PAUSE_SECONDS, pause * 2), str(error)
            except Exception:
                log.exception("posting failed; it is tried again")
                pause = min(MOST_PAUSE_SECONDS, pause * 2)
            self._round_began = float("inf")
        self._threads[0].join()
        self._finish()

    def after_fork_in_child(self) -> None:
        """Let go of what is the parent's, and begin anew."""
        # A thread of the parent's may have held it, and is not here to give it back.
        self._starting = threading.Lock()
