"""The dashboard at millions of URLs: its first load in a browser, and how many tabs one web process holds.

A tab asks for what has changed once a second, over a connection of its own, as the page's script
does. All tabs on the same page are the common case; tabs that all look at something else are the
worst one, where the process draws only so many pages a second and the others get an older state.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from urllib.parse import urlencode

from playwright.sync_api import sync_playwright
from tests.browsing import FLAGS, chromium
from tests.support import Valkey

from bench.common import Bar, Result, p99, scratch, valkey
from bench.filled import Served, rows, served
from bench.filled import fill as fill_ledger
from hitledger.periods import KINDS, Period

POLL_SECONDS = 1.0
MOST_KILOBYTES = 100
TABS_HELD = 200
"""The bar: so many tabs are answered within half a second, by one process of `HITLEDGER_WORKERS`."""


def weigh(result: Result, large: Served) -> None:
    """Weigh what the first page loads, compressed as a proxy in front of the service would."""
    page = _get(large, "/")
    total = len(gzip.compress(page))
    result.rows.append(["the page alone, kB compressed", total / 1000, len(page) / 1000])
    for address in sorted(set(re.findall(rb'(?:src|href)="(/static/[^"]+)"', page))):
        total += len(gzip.compress(_get(large, address.decode())))
    result.bars.append(Bar("first load in kB, compressed", total / 1000, MOST_KILOBYTES, at_least=False))


def open_pages(result: Result, large: Served, rounds: int) -> None:
    """Open pages in Chromium with nothing in its cache: milliseconds until all of a page is there and drawn."""
    if chromium() is None:
        result.notes.append("There is no Chromium here: pages were not opened.")
        return
    url = urlencode({"url": "/api/product/001/item-0000001/"})
    pages = {"first page": "/", "a search": "/?search=item-0000001", "one URL": f"/url?{url}", "test runs": "/runs/"}
    timing = "(({loadEventEnd, startTime}) => loadEventEnd - startTime)(performance.getEntriesByType('navigation')[0])"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS, env=dict(os.environ))
        for name, address in pages.items():
            found = []
            for _ in range(rounds):
                context = browser.new_context()
                page = context.new_page()
                page.goto(f"http://127.0.0.1:{large.port}{address}", wait_until="load")
                page.wait_for_function("performance.getEntriesByType('navigation')[0].loadEventEnd > 0")
                found.append(float(page.evaluate(timing)))
                context.close()
            result.rows.append([f"{name}, opened in Chromium: ms", median(found), max(found)])
            if name == "first page":
                what = f"first load at {large.url_count:,} URLs in s"
                result.bars.append(Bar(what, median(found) / 1000, 1, at_least=False))
        browser.close()


def watch(result: Result, large: Served, counts: tuple[int, ...], seconds: int) -> None:
    """Measure what tabs wait, and what they cost."""
    same: Callable[[int], str] = lambda _: "/live/"  # noqa: E731 - two of a kind read best side by side
    other: Callable[[int], str] = lambda tab: f"/live/?limit=25&period=day&by=hour&rank={tab + 1}"  # noqa: E731
    cases = [(count, "the same page", same) for count in counts] + [(counts[0], "different pages", other)]
    for count, what, address_of in cases:
        before = _processor_seconds(large.pid)
        began = time.perf_counter()
        waited, refused = asyncio.run(_tabs(large.port, count, seconds, address_of))
        share = (_processor_seconds(large.pid) - before) / (time.perf_counter() - began)
        result.rows.append([f"{count} tabs on {what}: ms a poll", median(waited), p99(waited)])
        result.notes.append(
            f"{count} tabs on {what}: {len(waited) / seconds:,.0f} polls/s, {share:.2f} of a core, "
            f"{refused} of {len(waited)} told to ask again."
        )
        if (count, what) == (TABS_HELD, "the same page"):
            result.bars.append(Bar(f"p99 in ms of {count} tabs' polls", p99(waited), 500, at_least=False))


async def _tabs(port: int, count: int, seconds: int, address_of: Callable[[int], str]) -> tuple[list[float], int]:
    """Poll from so many tabs, spread over the second; return what each poll waited in ms, and the 503s."""
    waited: list[float] = []
    refused = 0

    async def tab(number: int) -> None:
        nonlocal refused
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = f"GET {address_of(number)} HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n".encode()
        await asyncio.sleep(POLL_SECONDS * number / count)
        for _ in range(seconds):
            began = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            assert length, head
            await reader.readexactly(int(length.group(1)))
            waited.append((time.perf_counter() - began) * 1000)
            refused += head.startswith(b"HTTP/1.1 503")
            await asyncio.sleep(max(0.0, POLL_SECONDS - (time.perf_counter() - began)))
        writer.close()

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(tab(number))
    return waited, refused


def _get(large: Served, address: str) -> bytes:
    connection = large.connection()
    connection.request("GET", address)
    answer = connection.getresponse()
    assert answer.status == 200, answer.status
    return answer.read()


def _processor_seconds(pid: int) -> float:
    """Return what a process and its children have had of the processor."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = 0
    for each in (str(pid), *children):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def fill(server: Valkey, large: Served) -> None:
    """Put what was requested lately into this hour, this day and this month, too."""
    now = datetime.now(UTC)
    for kind in KINDS:
        fill_ledger(server, large.store, rows(large.url_count // 50), Period.containing(kind, now))


def run(*, quick: bool) -> Result:
    """Measure."""
    count, rounds, seconds = (200_000, 3, 5) if quick else (5_000_000, 15, 20)
    tabs = (TABS_HELD, 500) if quick else (TABS_HELD, 500, 1000)
    result = Result(f"The dashboard over {count:,} URLs, one web process", ["what", "median", "p99 or most"])
    # What is measured is reading; a sync for each of the loading commands would only take time.
    with (
        scratch() as folder,
        valkey("--appendonly", "no") as server,
        served(server, folder / "dashboard", 1, count) as large,
    ):
        fill(server, large)
        weigh(result, large)
        open_pages(result, large, rounds)
        watch(result, large, tabs, seconds)
    return result
