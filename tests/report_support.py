"""What the tests of reports need: a ledger filled through the real posting script."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from hitledger.entries import Batch, Hits, Watermark, shard_of
from hitledger.host import Host
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings

MOST_TOGETHER = 1000
_journals = itertools.count()


def with_shards(settings: Settings, shards: int) -> Settings:
    """Return settings for a ledger with so many shards."""
    return replace(settings, shards=shards)


def book(store: LedgerStore, when: datetime, counts: Mapping[str, int]) -> None:
    """Post hits that were received at one moment; names that begin with a parenthesis are lines."""
    book_routed(store, when, ((name, None, count) for name, count in counts.items()))


def book_routed(store: LedgerStore, when: datetime, counts: Iterable[tuple[str, str | None, int]]) -> None:
    """Do the same for hits whose route is told: name, route, number.

    As posting does, it books so many at a time: a busy machine needs seconds for 20,000, and no client waits that long.
    """
    left = iter(counts)
    while some := list(itertools.islice(left, MOST_TOGETHER)):
        _book_together(store, when, some)


def _book_together(store: LedgerStore, when: datetime, counts: Iterable[tuple[str, str | None, int]]) -> None:
    shards = store.identity.shards
    by_shard: dict[int, Hits] = {}
    for name, route, count in counts:
        hits = by_shard.setdefault(shard_of(name, shards), Hits())
        table = hits.lines if name.startswith("(") else hits.urls
        table[name] = table.get(name, 0) + count
        if route:
            hits.routes[route] = hits.routes.get(route, 0) + count
    for shard, hits in by_shard.items():
        batch = Batch(
            shard,
            f"{int(Host.now() * 1_000_000):016x}-{next(_journals):032x}",
            None,
            Watermark(100, hits.total),
            {int(when.timestamp()) // 3600: hits},
        )
        (outcome,) = store.post([batch])
        assert outcome.done, outcome
