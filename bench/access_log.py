"""Makes the access log that ingesting is measured on: `python -m bench.access_log LINES FILE`.

Combined format, one day of 2026-11-01, in which hits on a million URLs follow Zipf's law (the
k-th URL has a share in proportion to 1/k). One line in five has a query string, one in ten comes
from a bot, three in a hundred are answered with 404, and one in a thousand is no request at all.
The same number of lines is the same file, byte for byte.
"""

from __future__ import annotations

import random
import sys
from bisect import bisect_left
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

URLS = 1_000_000
DAY_SECONDS = 86_400
BLOCK = 10_000
AGENTS = (
    *["Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36"] * 6,
    *["Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148"] * 3,
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
)
BAD_REQUESTS = ("-", "\\x16\\x03\\x01\\x02\\x00\\x01\\x00", "GET", "quit")


def make(lines: int, file: BinaryIO, seed: int = 1) -> None:
    """Write a log of so many lines."""
    draw = random.Random(seed)
    shares = list(accumulate(1 / rank for rank in range(1, URLS + 1)))
    numbers = list(range(URLS))
    draw.shuffle(numbers)
    for start in range(0, lines, BLOCK):
        block = []
        for at in range(start, min(lines, start + BLOCK)):
            number = numbers[bisect_left(shares, draw.random() * shares[-1])]
            block.append(_line(draw, number, at * DAY_SECONDS // lines))
        file.write("".join(block).encode())


def _line(draw: random.Random, number: int, second: int) -> str:
    chance = draw.random()
    status = 404 if chance > 0.97 else 200
    request = f"GET /shop/{number % 97}/product/{number}/{_query(draw)} HTTP/1.1"
    if chance < 0.001:
        request, status = draw.choice(BAD_REQUESTS), 400
    time = f"01/Nov/2026:{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d} +0000"
    host = f"10.{number % 250}.{int(chance * 1e6) % 250}.{second % 250}"
    agent = AGENTS[int(chance * 1e7) % len(AGENTS)]
    return f'{host} - - [{time}] "{request}" {status} {number % 65536} "-" "{agent}"\n'


def _query(draw: random.Random) -> str:
    return f"?page={draw.randrange(50)}&session={draw.getrandbits(32):08x}" if draw.random() < 0.2 else ""


if __name__ == "__main__":
    with Path(sys.argv[2]).open("wb") as target:
        make(int(sys.argv[1]), target)
