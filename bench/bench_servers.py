"""What each kind of ledger server costs: booking a batch, and confirming that it is durable.

One poster books batches of 100 hits on 100 URLs and has them confirmed by WAITAOF, as it does
before a journal file may go. The kinds take turns within each round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.servers import Cluster, Sentinels, Server, redis_binary

from bench.common import Result, Spread, interleaved, scratch, seconds_of
from hitledger.entries import Batch, Hits, Watermark
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings

URLS = 100
HOUR = 498_000


class Booking:
    """Batches without end for every shard of one ledger, each beginning where the one before ended."""

    def __init__(self, url: str, folder: Path, replicas: int, shards: int | None = None) -> None:
        prefix = f"bench-{shards}-{replicas}"
        self._store = LedgerStore(Settings(redis_url=url, data_dir=folder, key_prefix=prefix, shards=shards))
        self._replicas = replicas
        self._journal = "0006400000000000-" + "ef" * 16
        self._marks = [Watermark()] * self._store.identity.shards
        self._first = True
        self.book()

    def book(self) -> float:
        """Book one batch for every shard; return milliseconds a batch."""
        batches = []
        for shard, mark in enumerate(self._marks):
            urls = {f"/{shard}/{number}": 1 for number in range(URLS)}
            wanted = Watermark(mark.offset + 100, mark.hits + URLS, mark.crc + 1)
            batches.append(Batch(shard, self._journal, None if self._first else mark, wanted, {HOUR: Hits(urls)}))
        seconds = seconds_of(lambda: self._check(batches))
        self._first = False
        self._marks = [batch.wanted for batch in batches]
        return seconds * 1000 / len(batches)

    def _check(self, batches: list[Batch]) -> None:
        words = {outcome.word for outcome in self._store.post(batches)}
        assert words == {"posted"}, words

    def confirm(self) -> float:
        """Have all of it confirmed; return milliseconds for the whole journal file."""
        return 1000 * seconds_of(self._confirm)

    def _confirm(self) -> None:
        assert self._store.confirm(self._journal, self._marks, self._replicas)


@contextmanager
def bookings() -> Iterator[dict[str, Booking]]:
    """Start every kind of server."""
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        always = stack.enter_context(Server(folder / "always"))
        second = stack.enter_context(Server(folder / "second", "--appendfsync", "everysec"))
        redis_always = stack.enter_context(Server(folder / "redis", binary=redis_binary()))
        sentinels = stack.enter_context(Sentinels(folder / "sentinels"))
        cluster = stack.enter_context(Cluster(folder / "cluster"))
        yield {
            "Valkey, appendfsync always": Booking(always.url, folder, 0),
            "Valkey, appendfsync everysec (not honest)": Booking(second.url, folder, 0),
            "Redis 8.2, appendfsync always": Booking(redis_always.url, folder, 0),
            "Valkey, 64 shards": Booking(always.url, folder, 0, 64),
            "Sentinel, 1 replica, which nobody waits for": Booking(sentinels.url, folder, 0),
            "Sentinel, 1 replica must confirm": Booking(sentinels.url, folder, 1),
            "Cluster of 3 + 3, 64 shards, replicas must confirm": Booking(cluster.url, folder, 1),
        }


def run(*, quick: bool) -> Result:
    """Measure."""
    rounds = 9 if quick else 41
    result = Result(
        "Ledger servers: what a batch of 100 hits on 100 URLs costs, and a file's confirmation",
        ["kind of server", "ms a batch", "middle half", "ms to confirm", "middle half"],
    )
    with bookings() as kinds:
        work: dict[str, Callable[[], float]] = {}
        for name, booking in kinds.items():
            work |= {f"book {name}": booking.book, f"confirm {name}": booking.confirm}
        found = interleaved(work, rounds)
    for name in kinds:
        booked, confirmed = (Spread.of(found[f"{what} {name}"]) for what in ("book", "confirm"))
        result.rows.append([name, booked.middle, str(booked), confirmed.middle, str(confirmed)])
    result.notes.append("All servers are on one machine and share its disk, as replicas should not.")
    return result
