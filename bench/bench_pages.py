"""Pages of 5 million URLs over HTTP, beside redis-py's bare ZREVRANGE of as many rows.

All take turns, request by request, in an order drawn anew each time. A p99 is that of a round of
some hundred, and what is held against a bar is the median over the rounds of the ratio of two
p99s: a slow second slows both sides of it. HTTP is asked by libcurl over one kept connection, as
a program would that asks often. What no page can be quicker than is measured beside them: a WSGI
application that does nothing, behind the same web server with as many threads; and `/livez`,
which has all of the service around it and asks no ledger.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from urllib.request import urlopen

import pycurl
from tests.support import Valkey

from bench.common import Bar, Result, Spread, interleaved, p99, ratio, scratch, valkey
from bench.filled import Served, served
from bench.served import granian
from hitledger.report.cursor import encode_cursor

LIMITS = (100, 1000)
NAMES = {
    "bare": "ZREVRANGE by redis-py",
    "nothing": "a WSGI application that does nothing",
    "empty": "/livez, which asks no ledger",
    "first": "first page",
    "small": "first page of 50,000 URLs",
    "deep": "page at 2/5 of all ranks",
}
Asks = Callable[[], float]
"""Asks once; returns milliseconds."""


def run(*, quick: bool) -> Result:
    """Measure."""
    count, rounds, each = (200_000, 3, 50) if quick else (5_000_000, 7, 150)
    result = Result(f"Pages of {count:,} URLs", ["what", "median", "p99"])
    # What is measured is reading; a sync for each of the loading commands would only take time.
    with scratch() as folder, valkey("--appendonly", "no") as server, granian("bare", {}, workers=1) as nothing:
        for shards in (1, 16):
            with (
                served(server, folder / f"a{shards}", shards, count) as large,
                served(server, folder / f"b{shards}", shards, 50_000) as small,
            ):
                for limit in LIMITS:
                    variants = {
                        "bare": _zrevrange(large, limit),
                        "nothing": _curl(nothing),
                        "empty": _curl(_address(large, "/livez")),
                        "first": _curl(_address(large, f"/stats/?limit={limit}")),
                        "small": _curl(_address(small, f"/stats/?limit={limit}")),
                        "deep": _curl(_address(large, deep_page(large, limit))),
                    }
                    pages(result, variants, f"{limit} rows, {shards} shards", (rounds, each))
            flush(server)
    return result


def flush(server: Valkey) -> None:
    """Make room for the next ledger."""
    server.client.execute_command("FLUSHALL", "SYNC")


def pages(result: Result, variants: dict[str, Asks], what: str, rounds: tuple[int, int]) -> None:
    """Measure pages: the first ones beside ZREVRANGE, the deep one beside the first."""
    interleaved(variants, 20)  # what a first use makes: connections, scripts
    found = [interleaved(variants, rounds[1], seed) for seed in range(rounds[0])]
    for name, text in NAMES.items():
        figures = [figure for each in found for figure in each[name]]
        result.rows.append([f"{text}, {what}, ms", median(figures), p99(figures)])

    def of(these: str, those: str, measure: Callable[[list[float]], float] = p99) -> Spread:
        return ratio([measure(each[these]) for each in found], [measure(each[those]) for each in found])

    for name in ("nothing", "empty", "first"):
        middle = of(name, "bare", median).middle
        result.notes.append(f"{NAMES[name]}, of ZREVRANGE's, {what}: p99 {of(name, 'bare')}, median {middle:.1f}")
    for text, spread, bound in (
        ("first page, p99 of ZREVRANGE's", of("first", "bare"), 2),
        ("first page, p99 of that at 50,000 URLs", of("first", "small"), 1.2),
        ("page at 2/5 of all ranks, p99 of the first's", of("deep", "first"), 1.5),
    ):
        result.bars.append(Bar(f"{text}, {what} (between quarters: {spread})", spread.middle, bound, at_least=False))


def deep_page(large: Served, limit: int) -> str:
    """Return the address of the page at two fifths of all ranks, as the page before it has it in `next`."""
    store = large.store
    shards = store.identity.shards
    rank = (large.url_count * 2 // 5 - limit) // shards
    (place,) = store.read([(0, ("ZREVRANGE", store.set_key(0), rank, rank, "WITHSCORES"))])
    cursor = encode_cursor((int(place[1]), place[0]), f"{store.identity.id} ")
    with urlopen(_address(large, f"/stats/?limit={limit}&cursor={cursor}")) as answer:
        return str(json.load(answer)["next"])


def _address(of: Served, path: str) -> str:
    return f"http://127.0.0.1:{of.port}{path}"


def _zrevrange(large: Served, limit: int) -> Asks:
    client, key = large.store.reader(0), large.store.set_key(0)
    return partial(_milliseconds, lambda: client.zrevrange(key, 0, limit - 1, withscores=True))


def _curl(address: str) -> Asks:
    handle, pieces = pycurl.Curl(), list[bytes]()
    handle.setopt(pycurl.URL, address)
    handle.setopt(pycurl.WRITEFUNCTION, pieces.append)

    def ask() -> float:
        pieces.clear()
        taken = _milliseconds(handle.perform)
        assert handle.getinfo(pycurl.RESPONSE_CODE) == 200, pieces
        return taken

    return ask


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000
