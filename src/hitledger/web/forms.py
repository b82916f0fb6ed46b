"""Forms that browsers send, read by a few threads at once.

A request is handed over as soon as its head is there. Whoever reads its body then waits for the
client, with a thread that answers nobody else meanwhile, and the server has no time-out for it.

Guarantee: however slowly however many clients send a page's form, three of four threads answer
others. A proxy that buffers requests keeps such clients away altogether.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from flask import request

from hitledger.settings import Settings
from hitledger.web.problems import problem

RETRY_SECONDS = "2"


class Forms:
    """Reads the form of a page. Safe for threads."""

    def __init__(self, settings: Settings) -> None:
        self._places = threading.Semaphore(max(1, settings.threads // 4))

    def read(self) -> Mapping[str, str]:
        """Return the form of the request that is being answered; answer 503 where others wait for theirs already."""
        if not self._places.acquire(blocking=False):
            problem(503, "Too many forms are on their way. Try again.", {"Retry-After": RETRY_SECONDS})
        try:
            return request.form
        finally:
            self._places.release()
