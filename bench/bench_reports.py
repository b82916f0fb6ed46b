"""Reports over millions of URLs: pages, deep pages, exports, and hours added up.

The ledger holds 5 million URLs of realistic paths with Zipf-distributed hits, a million of
them with one hit each, in 1 and in 16 shards. Pages are asked of the real service over HTTP,
beside redis-py's bare ZREVRANGE of as many rows; the two take turns.
"""

from __future__ import annotations

import http.client
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support import Valkey

from bench.common import Bar, Result, free_port, interleaved, program, scratch, valkey
from hitledger.entries import shard_of
from hitledger.ledger import LedgerStore
from hitledger.periods import Period
from hitledger.report.cursor import encode_cursor
from hitledger.settings import Settings

ONE_HIT_SHARE = 5
"""One URL in so many has one hit."""
HOURS = 24
LOAD_ROWS = 20_000
NAMES = {
    "bare": "ZREVRANGE",
    "first": "first page",
    "small": "first page of 50,000",
    "deep": "page at 2/5 of all ranks",
}


@dataclass(frozen=True)
class Served:
    """One ledger and the service in front of it."""

    store: LedgerStore
    url_count: int
    port: int
    pid: int

    def get(self, address: str) -> tuple[float, int]:
        """Return the milliseconds and the bytes of one answer, over a kept connection."""
        began = time.perf_counter()
        connection = self.connection()
        connection.request("GET", address)
        answer = connection.getresponse()
        length = len(answer.read())
        assert answer.status == 200, answer.status
        return (time.perf_counter() - began) * 1000, length

    def connection(self) -> http.client.HTTPConnection:
        """Return this thread's connection."""
        if not hasattr(_local, "connections"):
            _local.connections = {}
        if self.port not in _local.connections:
            _local.connections[self.port] = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        found: http.client.HTTPConnection = _local.connections[self.port]
        return found


_local = threading.local()


def rows(count: int, start: int = 0) -> Iterator[tuple[str, int]]:
    """Yield URLs of about 30 bytes with Zipf-distributed hits, one in five with one hit."""
    for number in range(start, start + count):
        hits = 1 if number % ONE_HIT_SHARE == 0 else 2 + count * 4 // (number + 1)
        yield f"/api/product/{number % 977:03}/item-{number:07}/", hits


def load(store: LedgerStore, content: Iterator[tuple[str, int]], period: Period | None = None) -> None:
    """Put rows into the ledger's sets and totals."""
    shards = store.identity.shards
    client = store.reader(0)
    waiting: list[dict[str, int]] = [{} for _ in range(shards)]
    totals = [0] * shards
    for url, hits in content:
        shard = shard_of(url, shards)
        waiting[shard][url] = hits
        totals[shard] += hits
        if len(waiting[shard]) >= LOAD_ROWS:
            client.zadd(store.set_key(shard, period), waiting[shard])
            waiting[shard] = {}
    for shard in range(shards):
        if waiting[shard]:
            client.zadd(store.set_key(shard, period), waiting[shard])
        client.hincrby(store.totals_key(shard, period), "requests", totals[shard])


@contextmanager
def served(server: Valkey, folder: Path, shards: int, count: int) -> Iterator[Served]:
    """Fill a ledger and serve it."""
    settings = Settings(redis_url=server.url, data_dir=folder, key_prefix=f"s{shards}n{count}", shards=shards)
    store = LedgerStore(settings)
    store.open()
    load(store, rows(count))
    port = free_port()
    environment = {
        "HITLEDGER_REDIS_URL": server.url, "HITLEDGER_DATA_DIR": str(folder), "HITLEDGER_WORKERS": "1",
        "HITLEDGER_KEY_PREFIX": settings.key_prefix, "HITLEDGER_PORT": str(port),
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


def p99(figures: list[float]) -> float:
    """Return the 99th percentile."""
    return sorted(figures)[int(len(figures) * 0.99)]


@contextmanager
def pinging(server: Valkey) -> Iterator[list[float]]:
    """Ask the server for PONGs meanwhile; the list has the milliseconds that each took."""
    found: list[float] = []
    done = threading.Event()

    def ping() -> None:
        client = server.client
        while not done.wait(0.002):
            began = time.perf_counter()
            client.ping()
            found.append((time.perf_counter() - began) * 1000)

    thread = threading.Thread(target=ping)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def pages(result: Result, large: Served, small: Served, rounds: int) -> None:
    """Measure pages: the first ones beside ZREVRANGE, the deep one beside the first."""
    shards = large.store.identity.shards
    client = large.store.reader(0)
    rank = large.url_count * 2 // 5 // shards
    (place,) = large.store.read([(0, ("ZREVRANGE", large.store.set_key(0), rank, rank, "WITHSCORES"))])
    for limit in (100, 1000):
        subject = f"{large.store.identity.id} "
        cursor = encode_cursor((int(place[1]), place[0]), subject)

        def bare(limit: int = limit) -> float:
            began = time.perf_counter()
            client.zrevrange(large.store.set_key(0), 0, limit - 1, withscores=True)
            return (time.perf_counter() - began) * 1000

        variants: dict[str, Callable[[], float]] = {
            "bare": bare,
            "first": lambda limit=limit: large.get(f"/stats/?limit={limit}")[0],  # type: ignore[misc]
            "small": lambda limit=limit: small.get(f"/stats/?limit={limit}")[0],  # type: ignore[misc]
            "deep": lambda limit=limit, cursor=cursor: large.get(f"/stats/?limit={limit}&cursor={cursor}")[0],  # type: ignore[misc]
        }
        found = interleaved(variants, rounds)
        for name, text in NAMES.items():
            figures = sorted(found[name])
            result.rows.append([f"{text}, {limit} rows, {shards} shards", figures[len(figures) // 2], p99(figures)])
        what = f"{limit} rows, {shards} shards"
        middle = {name: sorted(figures)[len(figures) // 2] for name, figures in found.items()}
        result.bars += [
            Bar(f"first page p99 of ZREVRANGE's, {what}", p99(found["first"]) / p99(found["bare"]), 2, at_least=False),
            Bar(
                f"first page of its own at 50,000 URLs, {what}", middle["first"] / middle["small"], 1.2, at_least=False
            ),
            Bar(f"deep page of the first, {what}", middle["deep"] / middle["first"], 1.5, at_least=False),
        ]


def export(result: Result, server: Valkey, large: Served) -> None:
    """Measure an export beside redis-cli, with somebody else's PINGs meanwhile."""
    shards = large.store.identity.shards
    cli = shutil.which("valkey-cli") or shutil.which("redis-cli")
    with pinging(server) as pings:
        began = time.perf_counter()
        _, length = large.get("/stats/export?order=none")
        seconds = time.perf_counter() - began
    rate = large.url_count / seconds
    memory = max(resident_megabytes(pid) for pid in children_of(large.pid))
    what = f"{large.url_count:,} URLs ({length / 1e6:.0f} MB), {shards} shards"
    result.rows.append([f"export {what}: URLs/s", rate, rate])
    result.bars += [
        Bar(f"PING p99 in ms during an export, {shards} shards", p99(pings), 10, at_least=False),
        Bar(f"MB of the exporting process, {shards} shards", memory, 150, at_least=False),
    ]
    if cli is None:
        result.notes.append("No redis-cli here: the export has no peer.")
        return
    began = time.perf_counter()
    for shard in range(shards):
        command = [
            cli,
            "-s",
            str(server.socket),
            "--raw",
            "ZRANGE",
            large.store.set_key(shard),
            "0",
            "-1",
            "WITHSCORES",
        ]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    bare = large.url_count / (time.perf_counter() - began)
    result.rows.append([f"redis-cli ZRANGE 0 -1, {shards} shards: URLs/s", bare, bare])
    result.bars.append(Bar(f"export of redis-cli's URLs/s, {shards} shards", rate / bare, 0.5))


def hours(result: Result, server: Valkey, large: Served, count: int) -> None:
    """Measure 24 hours added up: cold, then for the second reader, with PINGs meanwhile."""
    now = datetime.now(UTC)
    start = Period.containing("hour", now).start - timedelta(hours=HOURS)
    for index in range(HOURS):
        load(large.store, rows(count, index * count // 10), Period("hour", start + timedelta(hours=index)))
    end = start + timedelta(hours=HOURS)
    address = f"/stats/?limit=100&from={start:%Y-%m-%dT%HZ}&to={end:%Y-%m-%dT%HZ}".replace("Z", ":00Z")
    with pinging(server) as pings:
        cold, _ = large.get(address)
        warm, _ = large.get(address)
    shards = large.store.identity.shards
    result.rows.append([f"{HOURS} hours of {count:,} URLs, cold, {shards} shards", cold, cold])
    result.rows.append([f"the same, second reader, {shards} shards", warm, warm])
    result.bars += [
        Bar(f"24 hours added up, cold, in s, {shards} shards", cold / 1000, 3, at_least=False),
        Bar(f"PING p99 in ms meanwhile, {shards} shards", p99(pings), 10, at_least=False),
    ]


def memory(result: Result, server: Valkey, count: int) -> None:
    """Measure what one URL costs the ledger, in one set."""
    client = server.client
    before = int(client.info("memory")["used_memory"])
    client.zadd("memory", {f"/api/product/item-{number:012}/"[:30]: number for number in range(count)})
    each = (int(client.info("memory")["used_memory"]) - before) / count
    client.delete("memory")
    result.rows.append(["bytes of the ledger a 30-byte URL, in each set it is in", each, each])
    result.bars.append(Bar("bytes a URL in the cheapest set-up (all time only)", each, 100, at_least=False))


def resident_megabytes(pid: int) -> float:
    """Return the most memory that a process has had resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def children_of(pid: int) -> list[int]:
    """Return a process and its children."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, found)]


def run(*, quick: bool) -> Result:
    """Measure."""
    count, hour_count, rounds = (200_000, 20_000, 60) if quick else (5_000_000, 200_000, 400)
    result = Result(f"Reports over {count:,} URLs: milliseconds over HTTP", ["what", "median", "p99"])
    # What is measured is reading; a sync for each of the loading commands would only take time.
    with scratch() as folder, valkey("--appendonly", "no") as server:
        memory(result, server, min(count, 1_000_000))
        for shards in (1, 16):
            with (
                served(server, folder / f"a{shards}", shards, count) as large,
                served(server, folder / f"b{shards}", shards, 50_000) as small,
            ):
                pages(result, large, small, rounds)
                export(result, server, large)
                hours(result, server, large, hour_count)
            server.client.flushall()
    return result
