"""A shop's traffic: months of history posted to a ledger, and live requests, for pictures and browsers.

The same seed gives the same traffic. A few URLs are hot, most are hardly ever asked for, nights
are quiet, and some things rise while others fall: what people see on a real service.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection

from hitledger.ledger import LedgerStore
from tests.report_support import book

SECTIONS = ("products", "search", "cart", "orders", "customers", "images", "prices", "reviews", "stock", "login")
LEAVES = {"products": ("", "price/", "stock/", "reviews/"), "orders": ("", "items/", "invoice/"), "cart": ("", "add/")}
NUMBERED = {"products", "orders", "customers", "images", "reviews", "stock"}
LINES = {"(unmatched)": 37, "(oversized)": 1}
HOURS, DAYS, MONTHS = 48, 60, 14


def draw_url(draws: random.Random) -> str:
    """Return a URL, hot or rare."""
    section = SECTIONS[min(int(draws.expovariate(0.45)), len(SECTIONS) - 1)]
    if section not in NUMBERED or draws.random() < 0.12:
        return f"/api/{section}/"
    number = min(int(draws.paretovariate(0.55)), 40_000)
    return f"/api/{section}/{number}/{draws.choice(LEAVES.get(section, ('',)))}"


def moments(now: datetime) -> Iterator[tuple[datetime, float]]:
    """Yield the hours of which there is history, each with how busy it was; 1.0 is an afternoon's."""
    for back in range(MONTHS, 2, -1):
        yield now - timedelta(days=30 * back), 390.0 * (1 - back / 20)
    for back in range(DAYS, 3, -1):
        day = now - timedelta(days=back)
        yield day, 13.0 * (1.1 - back / 120) * (0.6 if day.weekday() >= 5 else 1.0)
    for back in range(HOURS, 0, -1):
        hour = now - timedelta(hours=back)
        yield hour, 0.55 - 0.45 * math.cos((hour.hour - 3) * math.pi / 12)


def fill(store: LedgerStore, now: datetime, draws: random.Random, busy: int = 6000) -> None:
    """Post the history that leads up to now; an hour's hits are `busy` in the afternoon."""
    for index, (moment, share) in enumerate(moments(now)):
        # A day's hits are drawn by the dozen, a month's by the hundred.
        times = max(1, int(share))
        drawn = int(busy * share / times * draws.uniform(0.9, 1.1))
        hits = Counter({url: count * times for url, count in Counter(draw_url(draws) for _ in range(drawn)).items()})
        # One campaign rises from nothing, and one page goes out of use.
        hits["/api/offers/winter/"] = int(12 * max(0, index - 80) * draws.uniform(0.8, 1.2))
        hits["/api/offers/autumn/"] = int(9 * max(0, 110 - index) * draws.uniform(0.8, 1.2))
        names = [name for name, count in hits.items() if count]
        for start in range(0, len(names), 1000):
            book(store, moment, {name: hits[name] for name in names[start : start + 1000]})
        book(store, moment, LINES)


def ask(port: int, draws: random.Random, requests: int) -> None:
    """Send requests to a service, one after the other."""
    connection = HTTPConnection("127.0.0.1", port)
    for _ in range(requests):
        connection.request("GET", draw_url(draws))
        connection.getresponse().read()
    connection.close()


def now_of() -> datetime:
    """Return the beginning of this hour."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
