"""A test run's load: requests a second, beside a loop over requests.Session and beside wrk, on the same URLs."""

from __future__ import annotations

import time
from random import Random

import requests

from bench.common import Bar, Result, Spread, interleaved, ratio, scratch, valkey
from bench.served import granian, wrk, wrk_script
from hitledger.testrun.load import Load
from hitledger.testrun.pool import draw_pool, draw_urls, paths_of

REQUESTS = 20_000
LOOP_REQUESTS = 1_000
CONNECTIONS = 32


def run_rate(address: str, pool: tuple[str, ...], count: int) -> float:
    """Return the requests a second of a test run's load."""
    load = Load(draw_urls(address, pool, count, "bench"), CONNECTIONS)
    began = time.perf_counter()
    load.run()
    seconds = time.perf_counter() - began
    assert (load.succeeded, load.failed) == (count, 0)
    return count / seconds


def loop_rate(address: str, pool: tuple[str, ...]) -> float:
    """Return the requests a second of a plain loop."""
    session = requests.Session()
    urls = list(draw_urls(address, pool, LOOP_REQUESTS, "bench"))
    began = time.perf_counter()
    for url in urls:
        assert session.get(url, timeout=10).ok
    return LOOP_REQUESTS / (time.perf_counter() - began)


def run(*, quick: bool) -> Result:
    """Measure."""
    count, rounds = (5_000, 3) if quick else (REQUESTS, 7)
    result = Result(f"Test runs of {count:,}: requests/s", ["target and client", "requests/s", "middle half"])
    pool = draw_pool(Random(1))
    with scratch() as folder, valkey() as server:
        script = wrk_script(folder, paths_of(pool))
        environment = {"HITLEDGER_REDIS_URL": server.url, "HITLEDGER_DATA_DIR": str(folder / "data")}
        for target in ("bare", "counted"):
            with granian(target, environment) as address:
                variants = {
                    "test run": lambda address=address: run_rate(address, pool, count),
                    "loop over requests.Session": lambda address=address: loop_rate(address, pool),
                    "wrk": lambda address=address: wrk(address, script),
                }
                found = interleaved(variants, rounds)
            name = {"bare": "a bare WSGI application", "counted": "the service"}[target]
            for client, figures in found.items():
                spread = Spread.of(figures)
                result.rows.append([f"{name}: {client}", spread.middle, str(spread)])
            of_loop = ratio(found["test run"], found["loop over requests.Session"]).middle
            of_wrk = ratio(found["test run"], found["wrk"]).middle
            result.bars += [
                Bar(f"{name}: test run of the loop", of_loop, 12),
                Bar(f"{name}: test run of wrk", of_wrk, 0.6),
            ]
    result.notes.append("Client and server share two cores; against the service, the service is the limit for wrk too.")
    return result
