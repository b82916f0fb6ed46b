"""The balance as a page shows it: cheap enough to be asked for every second.

`hitledger audit` counts every record anew; this reads the ledger's own sums, and what waits
in this host's journal.
"""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass

from hitledger.errors import LedgerError
from hitledger.web.services import Services

FRESH_SECONDS = 1.0


@dataclass(frozen=True)
class Balance:
    """What was received is posted, pending, refused or lost. `pending_bytes` waits on this host only."""

    posted: int
    lost: int
    pending_bytes: int
    set_aside: int
    reachable: bool


class _Last:
    """The last balance that could be read, and when."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.read_at = float("-inf")
        self.posted = 0
        self.lost = 0
        self.reachable = False


def balance_of(services: Services) -> dict[str, int | bool]:
    """Return the balance; the ledger's part is at most a second old, and older while it is away."""
    last: _Last = services.memory.setdefault("balance", _Last())
    with last.lock:
        if time.monotonic() - last.read_at >= FRESH_SECONDS:
            _read(services, last)
    journal_dir = services.settings.journal_dir
    balance = Balance(
        posted=last.posted,
        lost=max(last.lost, services.counter.journal.lost),
        pending_bytes=services.counter.poster.status.pending_bytes,
        set_aside=len(list(journal_dir.glob("*.quarantined"))),
        reachable=last.reachable,
    )
    return asdict(balance)


def _read(services: Services, last: _Last) -> None:
    last.read_at = time.monotonic()
    try:
        store = services.store
        books = [store.books(shard) for shard in range(store.identity.shards)]
    except LedgerError:
        last.reachable = False
        return
    last.posted = sum(each.requests for each in books)
    last.lost = sum(each.lost + each.damaged for each in books)
    last.reachable = True
