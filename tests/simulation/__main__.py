"""Run the simulation over many seeds.

Prints a line with the figures; for each seed that fails, its world, what did not hold, and
the command that shows it again. Exit status 1 where any failed.
"""

from __future__ import annotations

import argparse
import os
import sys

from tests.simulation.runner import failed_seeds, print_failures, run_all, run_seeds
from tests.simulation.trace import traced


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds (1000)")
    parser.add_argument("--events", type=int, default=1000, help="events of each (1000)")
    parser.add_argument("--start", type=int, help="first seed; without it, the seeds that once failed come before 0")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (one a core)")
    parser.add_argument("--trace", action="store_true", help="run one after the other and print all that happens")
    parser.add_argument("--first", action="store_true", help="stop at the first seed that fails")
    arguments = parser.parse_args()
    first = arguments.start or 0
    seeds = list(range(first, first + arguments.seeds))
    if arguments.start is None:
        seeds = list(dict.fromkeys([*failed_seeds(), *seeds]))
    if arguments.trace:
        with traced():
            failed = [seed for seed in seeds if print_failures(run_seeds([seed], arguments.events))]
        return int(bool(failed))
    return run_all(seeds, arguments.events, arguments.jobs, first=arguments.first)


if __name__ == "__main__":
    sys.exit(main())
