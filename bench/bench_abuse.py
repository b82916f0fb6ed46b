"""Two million random URLs from a scanner: what they cost in memory, in the process that counts and in the ledger.

A process of its own answers them through `CountHits` and posts them to a Valkey as shipped:
once as 404s, as a scanner of an application with routes gets them, once counted by path and
held by the cap on distinct URLs.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import redis
from tests.support import Valkey
from werkzeug.test import EnvironBuilder

from bench.common import ROOT, Bar, Result, scratch, valkey
from hitledger import CountHits
from hitledger.counting import HitCounter
from hitledger.errors import HitledgerError
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

SCANNED_URLS = 2_000_000
CAP = 100_000
POST_EVERY = 50_000
MOST_PROCESS_MIB = 64
MOST_LEDGER_BYTES_A_URL = 1024
"""For the most that the ledger may hold: four sets, three of them by period."""


@dataclass(frozen=True)
class Scan:
    """A scanner's visit: how many URLs, and whether each is counted by its path."""

    redis_url: str
    folder: str
    urls: int
    by_path: bool

    @property
    def settings(self) -> Settings:
        """The settings of the process that is scanned."""
        base = Settings(
            redis_url=self.redis_url, data_dir=Path(self.folder), max_urls=CAP, key_prefix=f"by-path-{self.by_path}"
        )
        return replace(base, count_unmatched=self.by_path, journal_hold_bytes=0, journal_file_bytes=8 * 2**20)


def run(*, quick: bool) -> Result:
    """Scan twice, each time in a fresh process."""
    urls = SCANNED_URLS // 20 if quick else SCANNED_URLS
    result = Result(
        f"A scanner asks for {urls:,} random URLs; the cap is {CAP:,}",
        ("", "URLs in the ledger", "process grew by MiB", "ledger grew by MiB", "hits a second"),
    )
    for name, by_path in (("404s counted as (unmatched)", False), ("404s counted by path", True)):
        with scratch() as folder, valkey() as server:
            _scan_beside(result, name, Scan(server.url, str(folder), urls, by_path), server)
    return result


def _scan_beside(result: Result, name: str, scan: Scan, server: Valkey) -> None:
    before = _memory(server.client)
    command = [sys.executable, "-m", "bench.bench_abuse", json.dumps(vars(scan))]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    ledger_bytes = _memory(server.client) - before
    mib = 2**20
    result.rows.append(
        (name, found["urls"], found["grown_bytes"] / mib, ledger_bytes / mib, scan.urls / found["seconds"])
    )
    result.bars.append(Bar(f"{name}: hits missing or too many", abs(found["requests"] - scan.urls), 0, at_least=False))
    result.bars.append(
        Bar(f"{name}: growth of the process, MiB", found["grown_bytes"] / mib, MOST_PROCESS_MIB, at_least=False)
    )
    most = max(1, found["urls"]) * MOST_LEDGER_BYTES_A_URL + mib
    result.bars.append(Bar(f"{name}: growth of the ledger, MiB", ledger_bytes / mib, most / mib, at_least=False))
    result.bars.append(Bar(f"{name}: URLs in the ledger", found["urls"], CAP if scan.by_path else 0, at_least=False))


def _memory(client: redis.Redis) -> int:
    with client:
        return int(client.info("memory")["used_memory"])


def scanned(scan: Scan) -> dict[str, float]:
    """Answer a scanner in this process, post, and return what it took."""
    store = LedgerStore(scan.settings)
    counter = HitCounter(scan.settings, store)
    app = CountHits(_not_found, counter)
    draw = random.Random(1)
    environ = EnvironBuilder("/").get_environ()
    began = monotonic()
    base = 0
    for number in range(scan.urls):
        environ["PATH_INFO"] = f"/{draw.getrandbits(64):x}/{number}.php"
        for _ in app(environ, lambda *_: lambda _: None):
            pass
        if number % POST_EVERY == 0:
            _post(counter)
            base = base or _peak_bytes()
    _post(counter)
    totals = store.totals()
    seconds = monotonic() - began
    counter.stop()
    return {"urls": totals.urls, "requests": totals.requests, "seconds": seconds, "grown_bytes": _peak_bytes() - base}


def _not_found(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    del environ
    start_response("404 Not Found", [])
    return [b""]


def _post(counter: HitCounter) -> None:
    while True:
        try:
            counter.post_now()
        except HitledgerError:
            continue
        return


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    print(json.dumps(scanned(Scan(**json.loads(sys.argv[1])))))
