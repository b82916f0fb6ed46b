"""Many clients that ask for large reports nobody has asked for before: what it costs, and who is served meanwhile.

The ledger holds 200,000 URLs of all time and 24 hours of as many, and one web process stands in front of it with
the settings as shipped: no limit on how often a client may ask. Fifty connections ask for a thousand different
reports that must be added up: windows of hours in several zones, sections, depths and searches. Each must be an
answer, or a 503 that says when to ask again. Beside them one client asks for the first page over and over.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from urllib.parse import urlencode

from bench.bench_reports import children_of, resident_megabytes
from bench.common import ROOT, Bar, Result, p99, scratch, valkey
from bench.filled import SECTIONS, Served, fill, rows, served
from bench.pings import pinging
from hitledger.periods import Period

HOURS = 24
CONNECTIONS = 50
REPORTS = 1000
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo")
CACHE_BYTES = 64 * 2**20
ANSWERED_WITHIN_SECONDS = 60


@dataclass
class Watched:
    """What was seen of the service meanwhile: the first page's answers, and what its processes took at most."""

    page_milliseconds: list[float] = field(default_factory=list)
    pages_refused: int = 0
    megabytes: float = 0
    threads: int = 0
    processes: int = 0


def run(*, quick: bool) -> Result:
    """Flood one web process, and see what becomes of it."""
    urls, reports = (20_000, 300) if quick else (200_000, REPORTS)
    result = Result(f"{reports} different reports over {HOURS} hours of {urls:,} URLs", ["what", "figure"])
    with scratch() as folder, valkey("--appendonly", "no") as server:
        more = {
            "HITLEDGER_REPORT_WAIT_SECONDS": "10",
            "HITLEDGER_REPORT_CACHE_BYTES": str(CACHE_BYTES),
            "HITLEDGER_LOG_LEVEL": "error",
        }
        with served(server, folder, 1, urls, more) as service:
            start = Period.containing("hour", datetime.now(UTC)).start - timedelta(hours=HOURS)
            for hour in range(HOURS):
                content = rows(urls, hour * urls // 10)
                fill(server, service.store, content, Period("hour", start + timedelta(hours=hour)))
            calm = [service.get("/stats/?limit=100")[0] for _ in range(200)]
            before = sum(map(resident_megabytes, children_of(service.pid)))
            with pinging(server) as pings, _watching(service) as watched:
                seconds, answers = _flood(service.port, reports, start)
            _tell(result, answers, seconds)
            _tell_of_service(result, watched, before, calm)
            kept = sum(file.stat().st_size for file in folder.glob("**/*.report")) / 2**20
            result.rows.append(["MiB of reports kept afterwards", kept])
            result.bars += [
                Bar("PING p99 of the ledger meanwhile, in ms", p99(pings), 10, at_least=False),
                Bar("MiB of reports kept, of those allowed", kept / (CACHE_BYTES / 2**20), 1, at_least=False),
            ]
    return result


def _tell(result: Result, answers: Counter[str], seconds: float) -> None:
    for status, count in sorted(answers.items()):
        result.rows.append([f"answered {status}", count])
    result.rows.append(["seconds that it took", seconds])
    others = sum(count for status, count in answers.items() if status not in ("200", "503 with Retry-After"))
    result.bars.append(Bar("answers other than 200, or 503 with Retry-After", others, 0, at_least=False))


def _tell_of_service(result: Result, watched: Watched, before: float, calm: list[float]) -> None:
    pages = watched.page_milliseconds
    result.rows += [
        ["first pages answered meanwhile", len(pages)],
        ["first page, ms, median when calm", median(calm)],
        ["first page, ms, median meanwhile", median(pages)],
        ["first page, ms, p99 meanwhile", p99(pages)],
        ["first page, ms, at most", max(pages)],
        ["MB of all its processes, at most", watched.megabytes],
        ["threads of all its processes, at most", watched.threads],
        ["processes, at most", watched.processes],
    ]
    result.bars += [
        Bar("first pages refused or broken off", watched.pages_refused, 0, at_least=False),
        Bar("first page, p99 meanwhile, in ms", p99(pages), 1000, at_least=False),
        Bar("MB that its processes grew by", watched.megabytes - before, 200, at_least=False),
    ]


@contextmanager
def _watching(service: Served) -> Iterator[Watched]:
    """Ask for the first page over and over, and look at the service's processes, in threads."""
    watched, is_over = Watched(), threading.Event()

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=ANSWERED_WITHIN_SECONDS)
        while not is_over.wait(0.02):
            began = time.perf_counter()
            try:
                connection.request("GET", "/stats/?limit=100")
                answer = connection.getresponse()
                answer.read()
                watched.pages_refused += answer.status != 200
            except (OSError, http.client.HTTPException):
                connection.close()
                watched.pages_refused += 1
            watched.page_milliseconds.append((time.perf_counter() - began) * 1000)

    def look() -> None:
        while not is_over.wait(0.2):
            found = [status for status in map(_status, _family(service.pid)) if status]
            watched.megabytes = max(watched.megabytes, sum(kib for kib, _ in found) / 1024)
            watched.threads = max(watched.threads, sum(threads for _, threads in found))
            watched.processes = max(watched.processes, len(found))

    threads = [threading.Thread(target=each) for each in (ask, look)]
    for thread in threads:
        thread.start()
    try:
        yield watched
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def _family(pid: int) -> list[int]:
    """Return a process and all below it."""
    try:
        texts = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [pid, *itertools.chain.from_iterable(_family(int(child)) for text in texts for child in text.split())]


def _status(pid: int) -> tuple[int, int] | None:
    """Return the KiB that a process has resident, and its threads."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    figures = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "Threads"))}
    return int(figures.get("VmRSS", 0)), int(figures["Threads"])


def reports_over(start: datetime, count: int, seed: int = 1) -> list[str]:
    """Return the addresses of so many different reports, each of several hours of the day that begins then."""
    draw = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        first = draw.randrange(HOURS - 2)
        hours = {"from": first, "to": draw.randint(first + 2, HOURS)}
        times = {name: f"{start + timedelta(hours=hour):%Y-%m-%dT%H}:00Z" for name, hour in hours.items()}
        rows_asked: dict[str, str | int] = draw.choice(
            [
                {},
                {"prefix": f"/api/product/{draw.randrange(SECTIONS):03d}/"},
                {"prefix": f"/{draw.choice('asd')}"},
                {"under": "/docs/en/"},
                {"group": draw.randint(1, 9)},
                {"search": f"{draw.randrange(10**5):05d}"},
            ]
        )
        asked = {**times, "tz": draw.choice(ZONES), "limit": draw.choice((100, 1000, 10_000)), **rows_asked}
        found[f"/stats/?{urlencode(asked)}"] = None
    return list(found)


def _flood(port: int, count: int, start: datetime) -> tuple[float, Counter[str]]:
    """Ask for the reports from a process of its own; return the seconds, and the answers by their kind."""
    command = [sys.executable, "-m", "bench.bench_flood", str(port), str(count), start.isoformat()]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - began, Counter(json.loads(done.stdout))


def main() -> None:
    """Ask for reports over as many connections as there are, and print what was answered."""
    port, count, start = sys.argv[1:]
    waiting = iter(reports_over(datetime.fromisoformat(start), int(count)))
    lock, answers = threading.Lock(), Counter[str]()

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=ANSWERED_WITHIN_SECONDS)
        while True:
            with lock:
                address = next(waiting, None)
            if address is None:
                return
            try:
                connection.request("GET", address)
                answer = connection.getresponse()
                answer.read()
                kind = str(answer.status) + (" with Retry-After" if answer.headers["Retry-After"] else "")
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                kind = type(error).__name__
            with lock:
                answers[kind] += 1

    threads = [threading.Thread(target=ask) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
