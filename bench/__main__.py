"""Run the benchmarks: `python -m bench [--quick] [name ...]`.

Each `bench_<name>.py` has a function `run(*, quick)` that returns a `Result`. The tables are
printed, and all of it is written to `bench/results/<date>.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from time import monotonic

from bench.common import ROOT, Result, commit, machine

FOLDER = Path(__file__).parent


def main() -> int:
    """Run what was asked for; exit status 1 where a bar was missed."""
    names = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
    parser = argparse.ArgumentParser("python -m bench", description="Measure hitledger beside its peers.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"which to run: {', '.join(names)}; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under a minute, and rougher figures")
    chosen = parser.parse_args()
    unknown = set(chosen.names) - set(names)
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    began = datetime.now(UTC)
    about = {"date": began.isoformat(timespec="seconds"), "commit": commit(), "quick": chosen.quick, **machine()}
    print(f"hitledger {about['commit']} on {about['cores']} cores of {about['processor']}, Python {about['python']}")
    results: dict[str, Result] = {}
    for name in chosen.names or names:
        since = monotonic()
        results[name] = import_module(f"bench.bench_{name}").run(quick=chosen.quick)
        print(results[name], flush=True)
        print(f"  * It took {monotonic() - since:.0f} s.", flush=True)
    target = FOLDER / "results" / f"{began:%Y-%m-%dT%H%M%S}.json"
    target.parent.mkdir(exist_ok=True)
    document = {**about, "results": {name: result.as_json() for name, result in results.items()}}
    target.write_text(json.dumps(document, indent=2) + "\n")
    print(f"\nWritten to {target.relative_to(ROOT)}")
    return 0 if all(bar.is_met for result in results.values() for bar in result.bars) else 1


if __name__ == "__main__":
    sys.exit(main())
