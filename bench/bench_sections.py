"""What sections that posting keeps would cost, and cost: bytes a URL and microseconds a hit.

Two ledgers of the same URLs, posted through the real script in the batches that posting makes, one
with `HITLEDGER_KEEP_SECTIONS` and one without; beside them a lexicographic index, priced by doing
for each batch what it would add: one ZADD of the batch's URLs to a set in which all scores are 0.
Time is the server's own, as INFO has it, so nothing but its work is in it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from tests.books import Books
from tests.report_support import book
from tests.support import Valkey

from bench.common import Bar, Result, scratch, test_run_paths, valkey
from bench.filled import rows
from hitledger.entries import MOST_URLS_A_CALL
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings

BATCH = MOST_URLS_A_CALL
CALL_URLS = 6000
MOST_CALL_MS = 10
CHEAPEST = {"retention_hours": 0, "retention_days": 0, "retention_months": 0}


WORST: dict[str, Callable[[int], bytes]] = {
    "plain URLs": lambda number: b"/api/item-%d" % number,
    "eight sections each": lambda number: b"/" + b"/".join(b"%06d-%d" % (number, depth) for depth in range(9)),
    "eight sections, 50 of each": lambda number: (
        b"/" + b"/".join(b"%d-%d" % (number % 50, depth) for depth in range(8)) + b"/%d" % number
    ),
    "URLs of 4 KB": lambda number: b"/api/" + b"x" * 4000 + b"/%d" % number,
}
"""What a call holds a server longest with."""


def run(*, quick: bool) -> Result:
    """Measure a shop's paths, where sections are few, and those of test runs, where they are many."""
    count = 50_000 if quick else 300_000
    result = Result("Keeping sections", ["what", "bytes a URL", "server's µs a URL and batch"])
    shop = [url.decode() for url, _ in rows(count)]
    runs = list(dict.fromkeys(url for seed in range(count // 400) for url in test_run_paths(700, seed)))[:count]
    with scratch() as folder, valkey("--appendonly", "no") as server:
        for name, urls in (("a shop's paths", shop), ("test runs' paths", runs)):
            random.Random(1).shuffle(urls)
            plain = _posted(server, folder, urls, keep_sections=False)
            kept = _posted(server, folder, urls, keep_sections=True)
            names = _lexicographic(server, urls)
            cheapest = _posted(server, folder, urls, keep_sections=False, **CHEAPEST)
            for text, figures in (
                ("without", plain), ("with sections kept", kept), ("a lexicographic index alone", names),
                ("without, all time only", cheapest),
            ):  # fmt: skip
                result.rows.append([f"{name}, {text}", *figures])
            bytes_share = 100 * (kept[0] / plain[0] - 1)
            time_share = 100 * (kept[1] / plain[1] - 1)
            result.bars += [
                Bar(f"{name}: sections, % more bytes (above it, optional)", bytes_share, 20, at_least=False),
                Bar(f"{name}: sections, % more of the server's time", time_share, 20, at_least=False),
            ]
        for name, url_of in WORST.items():
            for keep_sections in (False, True):
                word = "with" if keep_sections else "without"
                at = folder / f"{name} {keep_sections}"
                count, middle, most = _calls(server, at, url_of, keep_sections=keep_sections)
                text = f"{name}, {word} sections kept: ms of each of {count} calls"
                result.rows.append([text, middle, most])
                result.bars.append(Bar(f"{text}, the median", middle, MOST_CALL_MS, at_least=False))
    result.notes.append("Of calls, the columns are the median and the longest.")
    return result


def _calls(
    server: Valkey, folder: Path, url_of: Callable[[int], bytes], *, keep_sections: bool
) -> tuple[int, float, float]:
    """Post URLs that the ledger knows from a journal; return how many calls it took, and their median and most ms."""
    server.client.execute_command("FLUSHALL", "SYNC")
    server.client.config_set("latency-tracking-info-percentiles", "50 100")
    books = Books(Settings(redis_url=server.url, data_dir=folder, keep_sections=keep_sections))
    for _ in range(2):
        books.note(*map(url_of, range(CALL_URLS)))
        server.client.config_resetstat()
        books.poster.post_now()
    books.close()
    spent = server.client.info("latencystats")["latency_percentiles_usec_evalsha"]
    count = int(server.client.info("commandstats")["cmdstat_evalsha"]["calls"])
    return count, float(spent["p50"]) / 1000, float(spent["p100"]) / 1000


def _posted(server: Valkey, folder: Path, urls: list[str], **settings: int | bool) -> tuple[float, float]:
    """Post each URL once new and once known; return bytes a URL and microseconds of the script a URL and batch."""
    server.client.execute_command("FLUSHALL", "SYNC")
    store = LedgerStore(Settings(redis_url=server.url, data_dir=folder, **settings))  # type: ignore[arg-type]
    store.open()
    before = _memory(server)
    for _ in range(2):
        server.client.config_resetstat()
        for batch in _batches(urls):
            book(store, datetime.now(UTC), dict.fromkeys(batch, 1))
    # The second time: URLs that are known, as nearly all are.
    spent = int(server.client.info("commandstats")["cmdstat_evalsha"]["usec"])
    return (_memory(server) - before) / len(urls), spent / len(urls)


def _lexicographic(server: Valkey, urls: list[str]) -> tuple[float, float]:
    server.client.execute_command("FLUSHALL", "SYNC")
    before = _memory(server)
    for _ in range(2):
        server.client.config_resetstat()
        for batch in _batches(urls):
            server.client.zadd("names", dict.fromkeys(batch, 0))
    spent = int(server.client.info("commandstats")["cmdstat_zadd"]["usec"])
    return (_memory(server) - before) / len(urls), spent / len(urls)


def _batches(urls: Iterable[str]) -> Iterable[list[str]]:
    waiting = iter(urls)
    while batch := list(islice(waiting, BATCH)):
        yield batch


def _memory(server: Valkey) -> int:
    return int(server.client.info("memory")["used_memory"])
