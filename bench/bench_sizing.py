"""What a set-up takes of memory and disk: for the sizing table in docs/operations.md. Load does not move these."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

from tests.books import Books
from tests.ports import free_port
from tests.processes import Running

from bench.common import Result, scratch, test_run_paths, valkey
from hitledger import journal
from hitledger.journal import JournalWriter
from hitledger.settings import Settings

SETS = {"all time": False, "all time, an hour, a day and a month": True}
"""The sets that a URL is in, by whether periods are kept."""


def journal_bytes(folder: Path, hits: int) -> float:
    """Return the bytes of journal that a hit takes, on a path as test runs draw them."""
    writer = JournalWriter(folder / "journal")
    for path in test_run_paths(hits):
        writer.append(journal.PATH, path.encode())
    writer.close()
    return sum(each.stat().st_size for each in (folder / "journal").glob("*.journal")) / hits


def url_bytes(folder: Path, urls: int, *, periods: bool) -> float:
    """Return the bytes of memory that a URL takes in the ledger's server."""
    settings = Settings(data_dir=folder / f"data-{periods}")
    if not periods:
        settings = replace(settings, retention_hours=0, retention_days=0, retention_months=0)
    with valkey() as server:
        books = Books(replace(settings, redis_url=server.url))
        books.poster.post_now()
        before = server.client.info("memory")["used_memory"]
        books.note(*[b"/api/product/%07d/" % number for number in range(urls)])
        books.poster.post_now()
        after = server.client.info("memory")["used_memory"]
        books.close()
        return float(after - before) / urls


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Running, HTTPConnection]]:
    """Run the service with one web process; yield it, and a connection to it."""
    environment = {"HITLEDGER_DATA_DIR": str(folder / "serve"), "HITLEDGER_PORT": str(free_port())}
    with Running([sys.executable, "-m", "hitledger", "serve"], {**environment, "HITLEDGER_WORKERS": "1"}) as service:
        service.line_with("Serving on")
        connection = HTTPConnection("127.0.0.1", int(environment["HITLEDGER_PORT"]))
        yield service, connection
        connection.close()
        service.end()


def anonymous_bytes(pid: int) -> int:
    """Return what a process holds that no file backs."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


def run(*, quick: bool) -> Result:
    """Measure."""
    result = Result("Sizing: memory and disk", ["what", "figure", "unit"])
    urls, requests = (20_000, 5_000) if quick else (200_000, 50_000)
    with scratch() as folder:
        result.rows.append(["journal, a hit", journal_bytes(folder, 10_000), "bytes"])
        for name, periods in SETS.items():
            result.rows.append(
                [f"ledger, a URL of 21 bytes in {name}", url_bytes(folder, urls, periods=periods), "bytes"]
            )
        with serving(folder) as (service, connection):
            for number in range(requests):
                connection.request("GET", "/stats/" if number % 50 == 0 else f"/api/{number % 10_000}/")
                connection.getresponse().read()
            supervisor = service.process.pid
            worker, *_ = service.left("hitledger worker")
            main, web = service.left("hitledger web")[:2]
            for name, pid in (("supervisor", supervisor), ("worker", worker), ("web, its main process", main)):
                result.rows.append([f"memory of the {name}", anonymous_bytes(pid) / 2**20, "MiB"])
            result.rows.append(["memory of a web process", anonymous_bytes(web) / 2**20, "MiB"])
    result.notes.append(f"After {requests:,} requests, with 16 threads. Memory is what no file backs.")
    return result
