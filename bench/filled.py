"""Ledgers of millions of URLs for benchmarks, filled by pipelined ZADD, and a service in front of them.

The URLs have realistic paths of about 30 bytes, with Zipf-distributed hits, and one in five has one
hit: equal counts by the million. They are put where posting puts them, with totals that fit.
"""

from __future__ import annotations

import http.client
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from zlib import crc32

from tests.ports import free_port
from tests.support import Valkey

from bench.common import program
from hitledger.ledger import LedgerStore
from hitledger.periods import Period
from hitledger.settings import Settings

ONE_HIT_SHARE = 5
KEPT_ALIVE_SECONDS = 2
PIECE_ROWS = 100_000
ZADD_ROWS = 1000
NAMES = (b"/api/product/%03d/item-%07d/", b"/shop/%03d/article/%07d/", b"/docs/en/%03d/page-%07d.html")
"""One after the other, each with a section and a number."""
SECTIONS = 977
Rows = Iterator[tuple[bytes, int]]


@dataclass(frozen=True)
class Served:
    """One ledger and the service in front of it."""

    store: LedgerStore
    url_count: int
    port: int
    pid: int

    def get(self, address: str) -> tuple[float, int]:
        """Return the milliseconds and the bytes of one answer, over a kept connection."""
        connection = self.connection()
        if time.monotonic() - _local.__dict__.get("asked", 0) > KEPT_ALIVE_SECONDS:
            connection.close()
        _local.asked = time.monotonic()
        began = time.perf_counter()
        connection.request("GET", address)
        answer = connection.getresponse()
        length = 0
        while part := answer.read(1 << 20):
            length += len(part)
        assert answer.status == 200, (address, answer.status)
        return (time.perf_counter() - began) * 1000, length

    def connection(self) -> http.client.HTTPConnection:
        """Return this thread's connection."""
        found: dict[int, http.client.HTTPConnection] = _local.__dict__.setdefault("connections", {})
        if self.port not in found:
            found[self.port] = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        return found[self.port]


_local = threading.local()


def rows(count: int, start: int = 0) -> Rows:
    """Yield so many URLs and their hits."""
    for number in range(start, start + count):
        hits = 1 if number % ONE_HIT_SHARE == 0 else 2 + count * 4 // (number - start + 1)
        yield NAMES[number % 3] % (number % SECTIONS, number), hits


def fill(server: Valkey, store: LedgerStore, content: Rows, period: Period | None = None) -> None:
    """Put rows into the ledger's sets and totals; packing them here is what takes the time."""
    shards = store.identity.shards
    keys = [store.set_key(shard, period).encode() for shard in range(shards)]
    totals = [0] * shards
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb", 1 << 20) as answers:
        connection.connect(str(server.socket))
        while piece := list(islice(content, PIECE_ROWS)):
            by_shard: list[list[bytes]] = [[] for _ in range(shards)]
            for url, hits in piece:
                shard = crc32(url) % shards
                score = b"%d" % hits
                by_shard[shard].append(b"$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(score), score, len(url), url))
                totals[shard] += hits
            sent = 0
            for key, words in zip(keys, by_shard, strict=True):
                for at in range(0, len(words), ZADD_ROWS):
                    some = words[at : at + ZADD_ROWS]
                    head = b"*%d\r\n$4\r\nZADD\r\n$%d\r\n%b\r\n" % (2 + 2 * len(some), len(key), key)
                    connection.sendall(head + b"".join(some))
                    sent += 1
            for _ in range(sent):
                answer = answers.readline()
                assert answer.startswith(b":"), answer
    for shard, hits in enumerate(totals):
        store.reader(0).hincrby(store.totals_key(shard, period), "requests", hits)


@contextmanager
def served(
    server: Valkey, folder: Path, shards: int, count: int, more: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Fill a ledger and serve it by one process, with more variables of its environment."""
    settings = Settings(redis_url=server.url, data_dir=folder, key_prefix=f"s{shards}n{count}", shards=shards)
    store = LedgerStore(settings)
    store.open()
    fill(server, store, rows(count))
    port = free_port()
    environment = {
        "HITLEDGER_REDIS_URL": server.url, "HITLEDGER_DATA_DIR": str(folder), "HITLEDGER_WORKERS": "1",
        "HITLEDGER_KEY_PREFIX": settings.key_prefix, "HITLEDGER_PORT": str(port),
        "HITLEDGER_REPORT_WAIT_SECONDS": "60", **(more or {}),
    }  # fmt: skip

    def answers() -> bool:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/livez")
            return connection.getresponse().status == 200
        except OSError:
            return False

    with program([sys.executable, "-m", "hitledger", "web"], environment, answers) as pid:
        yield Served(store, count, port, pid)
