"""The balance as a page shows it: received = posted + pending + refused + lost, all in hits.

`hitledger audit` proves it record by record; this reads the ledger's own sums, and counts what
waits in this host's journal: cheap enough to be asked for every second.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from hitledger.audit import QUARANTINED_SUFFIX
from hitledger.errors import LedgerError
from hitledger.host import Host
from hitledger.journal import HEADER_BYTES
from hitledger.web.pending import RecordCounter
from hitledger.web.services import Services

log = logging.getLogger("hitledger.web")

FRESH_SECONDS = 0.9


@dataclass(frozen=True)
class Balance:
    """All in hits, over the ledger and this host's journal.

    `posted` is None where the ledger was never reached since this process began. `whole` is
    False while pending or refused hits are still being counted: there are more.
    """

    posted: int | None
    pending: int
    refused: int
    lost: int
    whole: bool
    reachable: bool

    @property
    def received(self) -> int | None:
        """All that came in."""
        return None if self.posted is None else self.posted + self.pending + self.refused + self.lost

    @property
    def state(self) -> str:
        """Say it in one word: away, wrong, waiting or good."""
        if not self.reachable:
            return "away"
        return "wrong" if self.lost or self.refused else "good"


class Balances:
    """The balance of one service, at most a second old; older, in the ledger's part, while the ledger is away."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lock = threading.Lock()
        self._pending = RecordCounter()
        self._refused = RecordCounter()
        self._read_at = float("-inf")
        self._last = Balance(None, 0, 0, 0, whole=True, reachable=False)

    def now(self, *, away: bool) -> Balance:
        """Return the balance; where the ledger is known to be away, it is not asked."""
        with self._lock:
            if time.monotonic() - self._read_at >= FRESH_SECONDS or away == self._last.reachable:
                self._last = self._read(self._last, away=away)
                self._read_at = time.monotonic()
            return self._last

    def _read(self, last: Balance, *, away: bool) -> Balance:
        services = self._services
        posted, lost, reachable = last.posted, last.lost, False
        try:
            if not away:
                # The ledger first: what is posted meanwhile comes in a second later, and never twice.
                store = services.store
                books = [store.books(shard) for shard in range(store.identity.shards)]
                posted, lost = sum(each.requests for each in books), sum(each.lost + each.damaged for each in books)
                reachable = True
        except LedgerError as error:
            log.debug("the balance shows what it last read: %s", error)
        pending = self._pending.count(services.counter.poster.unposted)
        files = Host().files(services.settings.journal_dir, QUARANTINED_SUFFIX)
        refused = self._refused.count((path, HEADER_BYTES) for path, _ in files)
        return Balance(
            posted=posted,
            pending=pending.hits,
            refused=refused.hits,
            lost=max(lost, services.counter.journal.lost),
            whole=pending.whole and refused.whole,
            reachable=reachable,
        )


def balance_of(services: Services, *, away: bool = False) -> Balance:
    """Return a service's balance."""
    balances: Balances = services.memory.setdefault("balances", Balances(services))
    return balances.now(away=away)
