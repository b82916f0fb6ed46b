"""Hits without end, tallied beside the ledger: what the tests of failing servers compare with."""

from __future__ import annotations

import random
import threading
from collections import Counter
from types import TracebackType
from typing import Self

from hitledger.audit import audit
from hitledger.counting import HitCounter
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
from tests.books import counts_of
from tests.support import wait_until

MOST_HITS = 5_000_000
HITS_A_TURN = 20
TURN_SECONDS = 0.005


class Traffic:
    """A process that counts, as far as journal, poster and ledger go: about 3,000 hits a second while within."""

    def __init__(self, settings: Settings, store: LedgerStore | None = None, *, seed: int = 1) -> None:
        self.settings = settings
        self.counter = HitCounter(settings, store or LedgerStore(settings))
        self.tally: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """End the hits; posting goes on."""
        self._stop.set()
        self._thread.join()

    def close(self) -> None:
        """End all of it."""
        self.end()
        self.counter.stop()

    def _run(self) -> None:
        while self.tally.total() < MOST_HITS and not self._stop.wait(TURN_SECONDS):
            for _ in range(HITS_A_TURN):
                url = f"/{min(999, int(self._random.expovariate(0.02)))}"
                assert self.counter.note(url.encode(), "200 OK")
                self.tally[url] += 1

    def posted(self) -> int:
        """Return the hits that the ledger has; 0 where it cannot be asked."""
        try:
            return self.counter.store.totals().requests
        except Exception:  # noqa: BLE001 - it is away in more ways than one
            return 0

    def wait_posted(self, more: int = 300) -> None:
        """Wait until so many more hits are posted than have come until now."""
        wanted = self.tally.total() + more
        wait_until(lambda: self.posted() >= wanted)

    def is_exact(self) -> bool:
        """Tell whether the ledger has what was counted, URL by URL, once the rest is posted."""
        wait_until(lambda: self.posted() >= self.tally.total())
        report = audit(self.settings, self.counter.store)
        assert not report.differences
        return counts_of(self.counter.store) == self.tally
