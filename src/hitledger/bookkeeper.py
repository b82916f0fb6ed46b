"""The background thread of a process that counts: it syncs the journal and posts."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from hitledger.errors import LedgerError, LedgerUnavailableError
from hitledger.posting import Poster

log = logging.getLogger("hitledger.posting")

MOST_PAUSE_SECONDS = 2.0
"""Longest pause between two tries while the ledger is away."""


class Bookkeeper:
    """The background thread of a process: it syncs the journal and posts, every 100 ms by default."""

    def __init__(self, poster: Poster, maintain: Callable[[], None], interval_seconds: float) -> None:
        self._poster = poster
        self._maintain = maintain
        self._interval = interval_seconds
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._starting = threading.Lock()

    def start(self) -> None:
        """Start the thread where this process has none yet: also after a fork."""
        with self._starting:
            if self._pid == os.getpid():
                return
            self._pid = os.getpid()
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._run, name="hitledger-posting", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread, sync the journal and post what there is, if the ledger answers."""
        self._stop.set()
        if self._thread and self._pid == os.getpid():
            self._thread.join()
        self._maintain()
        try:
            self._poster.post_now()
        except LedgerError as error:
            log.warning("stopped with hits still in the journal: %s They are posted at the next start.", error)

    def _run(self) -> None:
        pause = self._interval
        while not self._stop.wait(pause):
            try:
                self._maintain()
                self._poster.round()
                if pause > self._interval:
                    log.warning("the ledger is back; posting goes on")
                pause = self._interval
            except LedgerUnavailableError as error:
                if pause <= self._interval:
                    log.warning("posting waits: %s", error)
                pause = min(MOST_PAUSE_SECONDS, pause * 2)
            except Exception:
                log.exception("posting failed; it is tried again")
                pause = min(MOST_PAUSE_SECONDS, pause * 2)
