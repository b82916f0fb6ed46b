"""Requests a second that the same server answers, counted and uncounted."""

from __future__ import annotations

from bench.common import Bar, Result, Spread, interleaved, ratio, scratch, test_run_paths, valkey
from bench.served import granian, wrk, wrk_script


def run(*, quick: bool) -> Result:
    """Measure."""
    result = Result("Serving: requests/s of the service on Granian, 2 workers, wrk with 32 connections",
                    ["application", "requests/s", "middle half"])  # fmt: skip
    with scratch() as folder, valkey() as server:
        script = wrk_script(folder, test_run_paths(1000))
        environment = {"HITLEDGER_REDIS_URL": server.url}
        with (
            granian("counted", {**environment, "HITLEDGER_DATA_DIR": str(folder / "counted")}) as counted,
            granian("uncounted", {**environment, "HITLEDGER_DATA_DIR": str(folder / "uncounted")}) as uncounted,
        ):
            variants = {"counted": lambda: wrk(counted, script), "uncounted": lambda: wrk(uncounted, script)}
            interleaved(variants, 1)  # warm
            found = interleaved(variants, 8 if quick else 30)
    for name, figures in found.items():
        spread = Spread.of(figures)
        result.rows.append([name, spread.middle, str(spread)])
    share = ratio(found["counted"], found["uncounted"])
    result.bars.append(Bar("counted of uncounted, median of rounds", share.middle, 0.95))
    result.notes.append(f"Middle half of the rounds' ratios: {share}. wrk and the server share two cores.")
    return result
