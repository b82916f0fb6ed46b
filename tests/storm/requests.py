"""What the storm asks for: requests of every kind that counts, and the URL or line each counts under."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hitledger.paths import OVERSIZED, UNMATCHED, canonical

BLOCK = 4096
HOT_URLS = 50
RARE_URLS = 5000
ODD_PATHS = (
    "/api",
    "/api/",
    "/api//a///b/",
    "/api/a%0Ab",
    "/api/%FF%fe/",
    "/api/a%2Fb",
    "/api/%00",
    "/api/" + "x" * 1900,
)


@dataclass(frozen=True)
class Request:
    """One request's bytes, what it counts under, and the statuses that answer it as they should."""

    data: bytes
    key: str
    statuses: tuple[bytes, ...] = (b"200",)
    has_body: bool = True


def get(path: str, key: str = "", *, statuses: tuple[bytes, ...] = (b"200",), method: str = "GET") -> Request:
    """Return a request for a path; it counts under its canonical URL unless told otherwise."""
    data = f"{method} {path} HTTP/1.1\r\nHost: storm\r\n\r\n".encode()
    return Request(data, key or canonical(path), statuses, method != "HEAD")


READING = get("/stats/?limit=5", statuses=(b"200", b"503"))
"""A reader, whose request posts first; it may be told that the ledger is away."""


def simulated(seed: int) -> Iterator[Request]:
    """Return requests to /api/... without end: most on few URLs, many on rare ones."""
    draw = random.Random(seed)
    hot, rare = _simulated(draw)
    while True:
        yield from draw.choices(hot + rare, _weights((hot, 60), (rare, 35)), k=BLOCK)


def mixed(seed: int) -> Iterator[Request]:
    """Return requests without end: as `simulated`, with some of every odd kind among them."""
    draw = random.Random(seed)
    hot, rare = _simulated(draw)
    odd = [get(each) for each in ODD_PATHS]
    odd += [get(each.data.split()[1].decode(), method="HEAD") for each in hot[:5]]
    odd += [
        get("/nowhere/at/all", UNMATCHED, statuses=(b"404",)),
        get("/api/a/", UNMATCHED, statuses=(b"405",), method="DELETE"),
        get("/api/" + "y" * 2500, OVERSIZED, statuses=(b"414",)),
    ]
    while True:
        yield from draw.choices(hot + rare + odd, _weights((hot, 60), (rare, 35), (odd, 5)), k=BLOCK)


def _simulated(draw: random.Random) -> tuple[list[Request], list[Request]]:
    segments = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 10))) for _ in range(40)]

    def path() -> str:
        return "/api/" + "/".join(draw.choices(segments, k=draw.randint(1, 6))) + "/"

    return [get(path()) for _ in range(HOT_URLS)], [get(path()) for _ in range(RARE_URLS)]


def _weights(*groups: tuple[Sequence[Request], float]) -> list[float]:
    return [weight / len(group) for group, weight in groups for _ in group]
