"""Which workers are alive: each one's mark in the ledger's server, which vanishes by itself.

    <prefix>:workers:{0}        set     ids of the workers that have signed on
    <prefix>:worker:{0}:<id>    string  the mark: it expires 5 seconds after the last beat

A worker's mark also is the lease on every part of a test run that it has claimed: a part
whose worker has no mark is lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hitledger.connections import server_errors
from hitledger.ledger import LedgerStore

MARK_SECONDS = 5
BEAT_SECONDS = 1.0


class WorkerMarks:
    """The marks of all workers. Every method raises LedgerError."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store
        self._all = store.key("workers", "{0}")
        self._mark = store.key("worker", "{0}", "")

    @property
    def _client(self) -> Any:
        # redis-py's annotations allow for bytes and texts everywhere; this client gives texts.
        return self._store.reader(0)

    def beat(self, worker: str) -> None:
        """Say that a worker is alive."""
        with server_errors():
            pipeline = self._client.pipeline(transaction=False)
            pipeline.set(self._mark + worker, "1", ex=MARK_SECONDS)
            pipeline.sadd(self._all, worker)
            pipeline.execute()

    def leave(self, worker: str) -> None:
        """Say that a worker has gone."""
        with server_errors():
            pipeline = self._client.pipeline(transaction=False)
            pipeline.delete(self._mark + worker)
            pipeline.srem(self._all, worker)
            pipeline.execute()

    def alive(self, workers: Iterable[str]) -> set[str]:
        """Return those of the workers that are alive."""
        asked = list(workers)
        if not asked:
            return set()
        with server_errors():
            pipeline = self._client.pipeline(transaction=False)
            for worker in asked:
                pipeline.exists(self._mark + worker)
            return {worker for worker, found in zip(asked, pipeline.execute(), strict=True) if found}

    def any_alive(self) -> bool:
        """Tell whether there is a worker at all, and forget those that have gone."""
        return bool(self.count_alive())

    def count_alive(self) -> int:
        """Return how many workers there are, and forget those that have gone."""
        with server_errors():
            known = self._client.smembers(self._all)
        alive = self.alive(known)
        gone = known - alive
        if gone:
            with server_errors():
                self._client.srem(self._all, *gone)
        return len(alive)
