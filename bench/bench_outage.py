"""The ledger away for a minute under load: what requests notice of it, and how soon all is posted after.

A real service is asked steadily, below what it could do, so that times are its own and not a
queue's. Its Valkey is killed with -9 and started again a minute later; then the network
before it lets nothing through for a minute, which costs whoever waits for it a time-out.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, quantiles
from time import monotonic

from tests.storm.service import Service
from tests.support import wait_until

from bench.common import ROOT, Bar, Result, scratch
from hitledger.audit import audit
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings

CONNECTIONS = 12
PAUSE_SECONDS = 0.01
JOURNAL_FILE_BYTES = Settings.journal_file_bytes
WARM_UP_SECONDS = 3.0
SLICE_SECONDS = 3.0
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

    def times(self, times: array[float], begin: float, end: float) -> list[float]:
        """Return how long the answers to what was asked in between took, in milliseconds."""
        return [1000 * took for at, took in zip(times[::2], times[1::2], strict=True) if begin <= at < end]

    def median_p99(self, times: array[float]) -> float:
        """Return the median of the p99s of this phase's slices."""
        slices = int((self.end - self.begin) / SLICE_SECONDS)
        begins = [self.begin + number * SLICE_SECONDS for number in range(slices)]
        return median(quantiles(self.times(times, begin, begin + SLICE_SECONDS), n=100)[98] for begin in begins)


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
    phases: list[Phase] = []
    posted: dict[str, float] = {}
    client = _start_client(service, folder)
    try:
        _stay(service, WARM_UP_SECONDS)
        for name in (KILLED, CUT_OFF):
            phases.append(_phase(service, f"before it is {name}", seconds))
            if name == KILLED:
                service.kill_valkey(seconds)
            else:
                service.proxy.hold()
            phases.append(_phase(service, f"while it is {name}", seconds))
            service.proxy.heal()
            posted[name] = _seconds_until_posted(service)
    finally:
        assert client.stdin
        client.stdin.close()
        client.wait(60)
    times = array("d")
    times.frombytes((folder / "times").read_bytes())
    tally = json.loads((folder / "tally.json").read_text())
    return _result(phases, posted, times, sum(tally["broken"].values()) + tally["wrong"])


def _start_client(service: Service, folder: Path) -> subprocess.Popen[str]:
    words = ["--port", service.settings.port, "--seed", 1, "--connections", CONNECTIONS, "--pause", PAUSE_SECONDS]
    words += ["--tally", folder / "tally.json", "--times", folder / "times"]
    command = [sys.executable, "-m", "tests.storm.client", *map(str, words)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT)


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


def _result(phases: list[Phase], posted: dict[str, float], times: array[float], failed: int) -> Result:
    result = Result(
        "The ledger is away under load",
        ("", "requests a second", "p50 ms", "p99 ms", "p99.9 ms", "longest ms", "p99 ms of the median slice"),
        notes=[
            f"{CONNECTIONS} connections; each asks for /api/... again {PAUSE_SECONDS * 1000:.0f} ms after its answer.",
            f"The bars compare medians of {SLICE_SECONDS:.0f}-second slices: a burst of other work does not decide.",
        ],
    )
    in_slices: list[float] = []
    for phase in phases:
        took = sorted(phase.times(times, phase.begin, phase.end))
        points = quantiles(took, n=1000)
        in_slices.append(phase.median_p99(times))
        rate = len(took) / (phase.end - phase.begin)
        result.rows.append((phase.name, rate, points[499], points[989], points[998], took[-1], in_slices[-1]))
    result.bars.append(Bar("failed requests", failed, 0, at_least=False))
    for index, (name, seconds) in enumerate(posted.items()):
        ratio = in_slices[2 * index + 1] / in_slices[2 * index]
        what = f"p99 while it is {name}, in times of that before"
        result.bars.append(Bar(what, ratio, MOST_TIMES_P99, at_least=False))
        what = f"seconds until all is posted, once it is no longer {name}"
        result.bars.append(Bar(what, seconds, POSTED_WITHIN_SECONDS, at_least=False))
    return result
