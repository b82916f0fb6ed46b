"""The ledger away for a minute under load: what requests notice of it, and how soon all is posted after.

A real service is asked steadily, below what it could do, so that times are its own and not a
queue's. Its Valkey is killed with -9 and started again a minute later; then the network
before it lets nothing through for a minute, which costs whoever waits for it a time-out.
Then it goes away and comes back many times, for seconds: each time is compared with the
seconds before it, and the median of these ratios is no matter of what else the machine does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import quantiles
from time import monotonic

from tests.storm.service import Service
from tests.support import wait_until

from bench.common import ROOT, Bar, Result, ratio, scratch
from hitledger.audit import audit
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings

CONNECTIONS = 12
PAUSE_SECONDS = 0.01
JOURNAL_FILE_BYTES = Settings.journal_file_bytes
WARM_UP_SECONDS = 3.0
SHORT_SECONDS = 3.0
PAIRS = 12
POSTED_WITHIN_SECONDS = 10.0
MOST_TIMES_P99 = 1.2
TICK = threading.Event()
KILLED, CUT_OFF = "killed with -9", "cut off by the network"


@dataclass(frozen=True)
class Phase:
    """A stretch of the load, from one moment to another."""

    name: str
    begin: float
    end: float

    def took(self, times: array[float]) -> list[float]:
        """Return how long its answers took, in milliseconds."""
        pairs = zip(times[::2], times[1::2], strict=True)
        return [1000 * took for at, took in pairs if self.begin <= at < self.end]


@dataclass
class _Found:
    """What was seen: the long absences and the short ones, each with the time before it."""

    long: list[Phase] = field(default_factory=list)
    short: dict[str, list[tuple[Phase, Phase]]] = field(default_factory=dict)
    posted: dict[str, float] = field(default_factory=dict)
    failed: int = 0


def run(*, quick: bool) -> Result:
    """Measure both ways of being away, each beside as long a time before it."""
    seconds = 10.0 if quick else 60.0
    with scratch() as folder:
        service = Service(folder, file_bytes=[JOURNAL_FILE_BYTES], hold_seconds=Settings.journal_hold_seconds)
        try:
            return _measure(service, folder, seconds)
        finally:
            service.close()


def _measure(service: Service, folder: Path, seconds: float) -> Result:
    found = _Found()
    client = _start_client(service, folder)
    try:
        _stay(service, WARM_UP_SECONDS)
        for name in (KILLED, CUT_OFF):
            found.long += _away(service, name, seconds)
            found.posted[name] = _seconds_until_posted(service)
            found.short[name] = []
            for _ in range(PAIRS if seconds > SHORT_SECONDS * PAIRS else PAIRS // 3):
                found.short[name].append(_away(service, name, SHORT_SECONDS))
                _seconds_until_posted(service)
    finally:
        assert client.stdin
        client.stdin.close()
        client.wait(60)
    times = array("d")
    times.frombytes((folder / "times").read_bytes())
    tally = json.loads((folder / "tally.json").read_text())
    found.failed = sum(tally["broken"].values()) + tally["wrong"]
    return _result(found, times)


def _start_client(service: Service, folder: Path) -> subprocess.Popen[str]:
    words = ["--port", service.settings.port, "--seed", 1, "--connections", CONNECTIONS, "--pause", PAUSE_SECONDS]
    words += ["--tally", folder / "tally.json", "--times", folder / "times"]
    command = [sys.executable, "-m", "tests.storm.client", *map(str, words)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT)


def _away(service: Service, name: str, seconds: float) -> tuple[Phase, Phase]:
    """Let the ledger be away for so long, after as long a time with it; it comes back at the end."""
    before = _phase(service, f"before it is {name}", seconds)
    if name == KILLED:
        service.kill_valkey(seconds)
    else:
        service.proxy.hold()
    away = _phase(service, f"while it is {name}", seconds)
    service.proxy.heal()
    return before, away


def _phase(service: Service, name: str, seconds: float) -> Phase:
    begin = monotonic()
    _stay(service, seconds)
    return Phase(name, begin, monotonic())


def _stay(service: Service, seconds: float) -> None:
    until = monotonic() + seconds
    while monotonic() < until:
        service.tend()
        TICK.wait(0.05)


def _seconds_until_posted(service: Service) -> float:
    """Wait until the ledger has all that was journalled when it came back; return how long that took."""
    began = monotonic()
    _wait(service, service.valkey.answers)
    store = LedgerStore(replace(service.settings, redis_url=service.valkey.url))
    try:
        received = audit(service.settings, store).balance["received"]
    finally:
        store.close()
    _wait(service, lambda: service.booked() >= received)
    return monotonic() - began


def _wait(service: Service, found: Callable[[], bool]) -> None:
    def tended() -> bool:
        service.tend()
        return found()

    wait_until(tended, 120)


def _result(found: _Found, times: array[float]) -> Result:
    result = Result(
        "The ledger is away under load",
        ("", "requests a second", "p50 ms", "p99 ms", "p99.9 ms", "longest ms"),
        notes=[
            f"{CONNECTIONS} connections; each asks for /api/... again {PAUSE_SECONDS * 1000:.0f} ms after its answer.",
            f"The ratios of p99 are of {SHORT_SECONDS:.0f} s away and the {SHORT_SECONDS:.0f} s before, many times.",
        ],
    )
    for phase in found.long:
        took = sorted(phase.took(times))
        points = quantiles(took, n=1000)
        rate = len(took) / (phase.end - phase.begin)
        result.rows.append((phase.name, rate, points[499], points[989], points[998], took[-1]))
    result.bars.append(Bar("failed requests", found.failed, 0, at_least=False))
    for name, seconds in found.posted.items():
        p99 = [[quantiles(phase.took(times), n=100)[98] for phase in pair] for pair in found.short[name]]
        spread = ratio([away for _, away in p99], [before for before, _ in p99])
        what = f"p99 while it is {name}, in times of that before (between quarters: {spread})"
        result.bars.append(Bar(what, spread.middle, MOST_TIMES_P99, at_least=False))
        what = f"seconds until all is posted, once it is no longer {name}"
        result.bars.append(Bar(what, seconds, POSTED_WITHIN_SECONDS, at_least=False))
    return result
