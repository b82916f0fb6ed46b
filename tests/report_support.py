"""What the tests of reports need: a ledger filled through the real posting script."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from hitledger.entries import Batch, Hits, Watermark, shard_of
from hitledger.host import Host
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings

_journals = itertools.count()


def with_shards(settings: Settings, shards: int) -> Settings:
    """Return settings for a ledger with so many shards."""
    return replace(settings, shards=shards)


def book(store: LedgerStore, when: datetime, counts: Mapping[str, int]) -> None:
    """Post hits that were received at one moment; names that begin with a parenthesis are lines."""
    shards = store.identity.shards
    hour = int(when.timestamp()) // 3600
    for shard in range(shards):
        hits = Hits()
        for name, count in counts.items():
            if shard_of(name, shards) == shard:
                (hits.lines if name.startswith("(") else hits.urls)[name] = count
        total = sum(hits.urls.values()) + sum(hits.lines.values())
        if total:
            batch = Batch(
                shard,
                f"{int(Host.now() * 1_000_000):016x}-{next(_journals):032x}",
                None,
                Watermark(100, total),
                {hour: hits},
            )
            (outcome,) = store.post([batch])
            assert outcome.done, outcome
