"""Run a storm: `python -m tests.storm [--seed N] [--seconds S] [--json FILE]`; exit status 1 on any violation."""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

from tests.storm.storm import Plan, run


def main() -> int:
    """Run one storm and print what it did and found."""
    parser = argparse.ArgumentParser("python -m tests.storm", description="Attack a real service, and count along.")
    parser.add_argument("--seed", type=int, help="what the faults and requests are drawn from; random without it")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the faults go on")
    parser.add_argument("--pace", type=float, default=Plan.pace, help="faults a second")
    parser.add_argument("--connections", type=int, default=Plan.connections, help="of the client")
    parser.add_argument("--workers", type=int, default=Plan.workers, help="web processes")
    parser.add_argument("--shards", type=int, default=Plan.shards, help="of the ledger")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdict there, too")
    chosen = parser.parse_args()
    seed = random.randrange(2**32) if chosen.seed is None else chosen.seed
    verdict = run(Plan(seed, chosen.seconds, chosen.pace, chosen.connections, chosen.workers, chosen.shards))
    print(verdict)  # noqa: T201
    if chosen.json:
        chosen.json.write_text(json.dumps(verdict.as_json(), indent=2) + "\n")
    return 1 if verdict.violations else 0


if __name__ == "__main__":
    sys.exit(main())
