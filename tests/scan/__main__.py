"""Scan the API: `python -m tests.scan [--cases N] [--seed S] [--who WHO]`.

Exit status 1 on any failure, or where memory grows.
"""

from __future__ import annotations

import argparse
import random
import sys

from tests.scan.scan import Plan, scan


def main() -> int:
    """Scan, and print what was found."""
    parser = argparse.ArgumentParser("python -m tests.scan", description="Scan the HTTP API of a real service.")
    parser.add_argument("--cases", type=int, default=20_000, help="how many at least")
    parser.add_argument("--seed", type=int, help="what they are drawn from; random without it")
    parser.add_argument("--examples", type=int, default=Plan.examples, help="of each operation in a round's phase")
    parser.add_argument(
        "--who", choices=("anybody", "holder", "stranger"), default=Plan.who, help="with a key, without"
    )
    chosen = parser.parse_args()
    seed = random.randrange(2**31) if chosen.seed is None else chosen.seed
    print(f"seed {seed}", flush=True)  # noqa: T201
    verdict = scan(Plan(seed, chosen.cases, chosen.examples, chosen.who), lambda text: print(text, flush=True))  # noqa: T201
    return 0 if verdict.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
