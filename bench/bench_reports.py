"""Reports over millions of URLs: exports, hours added up, sections. Pages are in `bench_pages`.

The ledger holds 5 million URLs, in 1 and in 16 shards, and the real service is asked over HTTP.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median

from tests.support import Valkey

from bench.bench_pages import flush
from bench.common import Bar, Result, interleaved, p99, ratio, scratch, valkey
from bench.filled import Served, fill, rows, served
from bench.pings import pinging
from hitledger import tree
from hitledger.periods import Period

HOURS = 24
SECTIONS = ("under=/api/", "under=/api/product/", "under=/api/product/123/", "prefix=/api/product/", "group=3")
EXPORT_ROUNDS = 2


def run(*, quick: bool) -> Result:
    """Measure."""
    count, hour_count = (200_000, 20_000) if quick else (5_000_000, 200_000)
    result = Result(f"Reports over {count:,} URLs", ["what", "median", "p99"])
    # What is measured is reading; a sync for each of the loading commands would only take time.
    with scratch() as folder, valkey("--appendonly", "no") as server:
        memory(result, server, min(count, 1_000_000))
        for shards in (1, 16):
            with (
                served(server, folder / f"a{shards}", shards, count) as large,
                served(server, folder / f"b{shards}", shards, 50_000) as small,
            ):
                export(result, server, large)
                hours(result, server, large, hour_count)
                sections(result, server, small)  # to keep those of millions takes minutes
            flush(server)
    return result


def export(result: Result, server: Valkey, large: Served) -> None:
    """Measure exports beside redis-cli, with somebody else's PINGs meanwhile."""
    shards, count = large.store.identity.shards, large.url_count
    cli = shutil.which("valkey-cli") or shutil.which("redis-cli")

    def dump() -> float:
        """Have redis-cli read all sets to nowhere; return URLs a second."""
        began = time.perf_counter()
        for shard in range(shards):
            words = ["-s", str(server.socket), "--raw", "ZRANGE", large.store.set_key(shard), "0", "-1", "WITHSCORES"]
            subprocess.run([str(cli), *words], stdout=subprocess.DEVNULL, check=True)
        return count / (time.perf_counter() - began)

    waits: list[float] = []

    def exported(order: str) -> float:
        """Return URLs a second of an export over HTTP."""
        with pinging(server) as pings:
            milliseconds, _ = large.get(f"/stats/export?order={order}")
        waits.extend(pings)
        return count / milliseconds * 1000

    variants: dict[str, Callable[[], float]] = {
        "in order": partial(exported, "requests"),
        "order=none": partial(exported, "none"),
    }
    if cli:
        variants["redis-cli"] = dump
    else:
        result.notes.append("No redis-cli here: the export has no peer.")
    found = interleaved(variants, EXPORT_ROUNDS)
    for name, figures in found.items():
        result.rows.append([f"export, {name}, {shards} shards, URLs/s", median(figures), min(figures)])
        if cli and name != "redis-cli":
            rate = ratio(figures, found["redis-cli"]).middle
            result.bars.append(Bar(f"export {name}, of redis-cli's URLs/s, {shards} shards", rate, 0.5))
    memory = max(resident_megabytes(pid) for pid in children_of(large.pid))
    result.bars += [
        Bar(f"PING p99 in ms during exports, {shards} shards", p99(waits), 10, at_least=False),
        Bar(f"MB of the exporting process at most, {shards} shards", memory, 150, at_least=False),
    ]


def hours(result: Result, server: Valkey, large: Served, count: int) -> None:
    """Measure 24 hours added up: cold, then for the second reader, with PINGs meanwhile."""
    now = datetime.now(UTC)
    start = Period.containing("hour", now).start - timedelta(hours=HOURS)
    for index in range(HOURS):
        fill(server, large.store, rows(count, index * count // 10), Period("hour", start + timedelta(hours=index)))
    end = start + timedelta(hours=HOURS)
    times = f"from={start:%Y-%m-%dT%H}:00Z&to={end:%Y-%m-%dT%H}:00Z"
    with pinging(server) as pings:
        cold, _ = large.get(f"/stats/?limit=100&{times}")
        second, _ = large.get(f"/stats/?limit=100&{times}")
        # Its last rows need all of it added up.
        whole, _ = large.get(f"/stats/?limit=100&prefix=/&{times}")
    shards = large.store.identity.shards
    what = f"{HOURS} hours of {count:,} URLs, {shards} shards"
    for text, figure in (("cold", cold), ("second reader", second), ("all of it, below /", whole)):
        result.rows.append([f"{what}, {text}, ms", figure, figure])
    result.bars += [
        Bar(f"{what}, first page cold, in s", cold / 1000, 3, at_least=False),
        Bar(f"PING p99 in ms meanwhile, {shards} shards", p99(pings), 10, at_least=False),
    ]


def sections(result: Result, server: Valkey, large: Served) -> None:
    """Measure sections, added up on demand and then kept in the ledger."""
    shards = large.store.identity.shards
    asked: dict[str, list[float]] = {}
    for query in SECTIONS:
        asked[query] = [large.get(f"/stats/?limit=100&{query}")[0] for _ in range(2)]
    before = int(server.client.info("memory")["used_memory"])
    began = time.perf_counter()
    with pinging(server) as pings:
        tree.keep(large.store)
    seconds = time.perf_counter() - began
    each = (int(server.client.info("memory")["used_memory"]) - before) / large.url_count
    for query, (cold, again) in asked.items():
        kept = median(after_a_hit(large, f"/stats/?limit=100&{query}") for _ in range(5 if "=/" in query else 1))
        text = f"{query}, {large.url_count:,} URLs, {shards} shards, ms:"
        result.rows.append([f"{text} added up cold", cold, cold])
        result.rows.append([f"{text} second reader", again, again])
        result.rows.append([f"{text} where sections are kept", kept, kept])
    result.rows.append([f"bringing the ledger to keep sections, {shards} shards, s", seconds, seconds])
    result.rows.append([f"bytes a URL that sections cost, {shards} shards", each, each])
    result.bars.append(
        Bar(f"PING p99 in ms while it is brought to that, {shards} shards", p99(pings), 10, at_least=False)
    )


def after_a_hit(large: Served, address: str) -> float:
    """Return the milliseconds of an answer that no earlier one can be used for."""
    large.get("/api/bench/")
    return large.get(address)[0]


def memory(result: Result, server: Valkey, count: int) -> None:
    """Measure what one URL costs the ledger, in one set."""
    client = server.client
    before = int(client.info("memory")["used_memory"])
    for start in range(0, count, 10_000):
        numbers = range(start, min(start + 10_000, count))
        client.zadd("memory", {f"/api/product/item-{number:012}/"[:30]: number for number in numbers})
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
