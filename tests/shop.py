"""A shop's traffic: months of history posted to a ledger, and live requests, for pictures of what people see.

The same seed gives the same traffic. A few URLs are hot, most are hardly ever asked for, nights
are quiet, and some things rise while others fall.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.client import HTTPConnection

from hitledger.ledger import LedgerStore
from hitledger.periods import Period
from tests.report_support import book

SECTIONS = ("products", "search", "cart", "orders", "customers", "images", "prices", "reviews", "stock", "login")
LEAVES = {"products": ("", "price/", "stock/", "reviews/"), "orders": ("", "items/", "invoice/"), "cart": ("", "add/")}
NUMBERED = {"products", "orders", "customers", "images", "reviews", "stock"}
OFFERS = {"winter": 1, "autumn": -1}
"""What comes into use, and what goes out of it."""
HOURS, DAYS, MONTHS = 48, 60, 14
BUSY_A_SECOND = 120
"""Requests a second in the afternoon."""
DRAWN = 5000
"""URLs that are drawn for a moment; all its requests are shared out among them."""


def draw_url(draws: random.Random) -> str:
    """Return a URL, hot or rare."""
    section = SECTIONS[min(int(draws.expovariate(0.45)), len(SECTIONS) - 1)]
    if section not in NUMBERED or draws.random() < 0.12:
        return f"/api/{section}/"
    number = min(int(draws.paretovariate(0.55)), 40_000)
    return f"/api/{section}/{number}/{draws.choice(LEAVES.get(section, ('',)))}"


def busy(moment: datetime) -> float:
    """Return how busy an hour is; 1.0 is an afternoon's."""
    return 0.6 - 0.4 * math.cos((moment.hour - 3) * math.pi / 12)


def moments(now: datetime) -> Iterator[tuple[datetime, float, float]]:
    """Yield moments with the hours that they stand for, oldest first, and how far the story is at each."""
    hour = Period.containing("hour", now).start
    for back in range(MONTHS, 2, -1):
        yield now - timedelta(days=30 * back), 30 * 15 * (1 - back / 20), 0.0
    for back in range(DAYS, 2, -1):
        day = now - timedelta(days=back)
        yield day, 15 * (1.05 - back / 150) * (0.6 if day.weekday() >= 5 else 1.0), 1 - back / DAYS
    for back in range(HOURS, 0, -1):
        yield hour - timedelta(hours=back), busy(hour - timedelta(hours=back)), 1 - back / (24 * DAYS)
    yield now, busy(hour) * ((now - hour) / timedelta(hours=1)), 1.0


def fill(store: LedgerStore, now: datetime, draws: random.Random) -> None:
    """Post the history that leads up to now."""
    for moment, hours, far in moments(now):
        requests = BUSY_A_SECOND * 3600 * hours * draws.uniform(0.93, 1.07)
        for name, way in OFFERS.items():
            share = 0.04 * max(0.0, far - 0.4) ** 2 if way > 0 else 0.03 * max(0.0, 0.9 - far) ** 2
            book(store, moment, {f"/api/offers/{name}/": int(requests * share) + 1})
        drawn = Counter(draw_url(draws) for _ in range(DRAWN))
        counts = {url: int(requests * count / DRAWN * draws.uniform(0.95, 1.05)) for url, count in drawn.items()}
        names = [url for url, count in counts.items() if count]
        for start in range(0, len(names), 1000):
            book(store, moment, {url: counts[url] for url in names[start : start + 1000]})
        book(store, moment, {"(unmatched)": int(requests / 900) + 1})


def ask(port: int, draws: random.Random, requests: int) -> None:
    """Send requests to a service, one after the other."""
    connection = HTTPConnection("127.0.0.1", port)
    for _ in range(requests):
        connection.request("GET", draw_url(draws))
        connection.getresponse().read()
    connection.close()
