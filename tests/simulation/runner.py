"""Running many seeds, on all cores."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.simulation.schedule import Schedule

SEEDS_FILE = Path(__file__).with_name("seeds.txt")
SLICE = 50
"""Seeds that a process runs before it reports."""


@dataclass
class Report:
    """What came of some seeds."""

    seeds: int = 0
    events: int = 0
    cpu_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Add another report's figures."""
        self.seeds += other.seeds
        self.events += other.events
        self.cpu_seconds += other.cpu_seconds
        self.failures += other.failures


def run_seeds(seeds: list[int], events: int) -> Report:
    """Run some seeds in this process."""
    # Worlds are trees that go as a whole: looking for cycles in them all the time costs a tenth.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    report, start = Report(), time.process_time()
    for seed in seeds:
        failure = run_seed(seed, events)
        report.seeds += 1
        report.events += events
        if failure:
            report.failures.append(failure)
    report.cpu_seconds = time.process_time() - start
    return report


def run_seed(seed: int, events: int) -> str:
    """Run one seed; return what did not hold, if anything."""
    schedule = Schedule(seed)
    try:
        schedule.run(events)
    except Exception as error:  # noqa: BLE001 - whatever comes up is a finding
        command = f"python -m tests.simulation --start {seed} --seeds 1 --events {events} --trace"
        return f"seed {seed} ({schedule.world.profile})\n  {type(error).__name__}: {error}\n  {command}"
    return ""


def slices(seeds: list[int]) -> Iterator[list[int]]:
    """Cut a list of seeds into slices."""
    for start in range(0, len(seeds), SLICE):
        yield seeds[start : start + SLICE]


def run_all(seeds: list[int], events: int, jobs: int, *, first: bool = False) -> int:
    """Run seeds over several processes and print the figures; `first` ends it with the first that fails."""
    total, start = Report(), time.monotonic()
    for report in _reports(seeds, events, jobs):
        total.add(report)
        if print_failures(report) and first:
            break
    print(  # noqa: T201
        f"{total.seeds:,} seeds, {total.events:,} events, {len(total.failures)} failed; "
        f"{time.monotonic() - start:,.0f} s, {total.events / total.cpu_seconds:,.0f} events a second and core"
    )
    return int(bool(total.failures))


def _reports(seeds: list[int], events: int, jobs: int) -> Iterator[Report]:
    if jobs == 1:
        for each in slices(seeds):
            yield run_seeds(each, events)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        try:
            yield from pool.map(run_seeds, slices(seeds), itertools.repeat(events))
        finally:
            pool.shutdown(cancel_futures=True)


def print_failures(report: Report) -> bool:
    """Print what failed; tell whether anything did."""
    for failure in report.failures:
        print(failure, file=sys.stderr)  # noqa: T201
    return bool(report.failures)


def failed_seeds() -> list[int]:
    """Return the seeds that once failed, as `seeds.txt` lists them."""
    words = [line.partition("#")[0].strip() for line in SEEDS_FILE.read_text("utf-8").splitlines()]
    return [int(word) for word in words if word]
