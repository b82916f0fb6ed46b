"""Logs for the tests: made line by line, and counted by a model that is slow and plain."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from hitledger.ingest.run import FileReport, Options, Run
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings

SAMPLES = Path(__file__).parent / "data" / "logs"
PLAIN = re.compile(rb'\S+ \S+ \S+ \[[^]]+\] "[A-Z]+ (/[^ ?]*)\S* HTTP/1\.1" (\d+) ')


def log_lines(count: int, seed: int = 1, *, urls: int = 3000, minutes: int = 300) -> bytes:
    """Return lines of the combined format: hot and rare URLs, query strings, 404s, and lines that are none."""
    draw = random.Random(seed)
    lines = []
    for number in range(count):
        minute = number * minutes // count
        time = f"{1 + minute // 1440:02d}/Nov/2026:{minute // 60 % 24:02d}:{minute % 60:02d}:{draw.randrange(60):02d}"
        path = f"/api/%{draw.randrange(int(urls ** draw.random() ** 0.5) + 1):02X}x/{draw.randrange(urls)}/"
        path = path if draw.random() < 0.5 else f"/hot/{draw.randrange(5)}/"
        query = f"?n={draw.randrange(100)}" if draw.random() < 0.2 else ""
        status = 404 if draw.random() < 0.05 else 200
        request = f"GET {path}{query} HTTP/1.1" if draw.random() < 0.98 else draw.choice(["-", "\\x16\\x03", "HELP"])
        lines.append(f'10.0.0.{draw.randrange(256)} - - [{time} +0000] "{request}" {status} 12 "-" "agent {number}"\n')
    return "".join(lines).encode()


def naive(log: bytes) -> dict[str, int]:
    """Return what a log's lines count under, line by line."""
    found: Counter[str] = Counter()
    for line in log.split(b"\n")[:-1]:
        match = PLAIN.match(line)
        if match:
            unmatched = match[2] in (b"404", b"405")
            found["(unmatched)" if unmatched else quote_from_bytes(unquote_to_bytes(match[1]), safe="/")] += 1
    return dict(found)


def counts_of(store: LedgerStore) -> dict[str, int]:
    """Return hits by URL and line, over all shards."""
    found = {name: count for name, count in store.totals().lines.items() if count}
    for shard in range(store.identity.shards):
        found |= {str(url): int(hits) for url, hits in store.reader(shard).zscan_iter(store.set_key(shard), count=5000)}
    return found


def ingest(settings: Settings, store: LedgerStore, *paths: Path, source: str = "") -> list[FileReport]:
    """Ingest files in a run of its own."""
    run = Run(settings, store, Options(source=source))
    return [run.ingest(path) for path in paths]
