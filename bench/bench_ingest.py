"""How fast an access log becomes counts, beside GoAccess on the same file.

`hitledger ingest` is measured as users run it: a process of its own that reads the file, adds it
up and books it into a real Valkey that syncs every write; its time is from its start to its end.
GoAccess writes its JSON report, which is compared with the ledger URL by URL.

The same log is ingested a second time with its days shifted to now, so that its hours are still
kept: each URL then goes into a set for each of 24 hours as well.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

from tests.logs import counts_of
from tests.support import Valkey

from bench.access_log import make
from bench.common import ROOT, Bar, Result, scratch, valkey
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings

LEAST_OF_GOACCESS = 10
LINES = 2_000_000
"""GoAccess did not come to the end of 10 million within 30 minutes."""
QUICK_LINES = 300_000
MOST_SECONDS = 1800
DAY = b"01/Nov/2026"
BAD = "bad lines"
"""What GoAccess lists as URLs although its request line is none."""


def run(*, quick: bool) -> Result:
    """Measure one run of each on one file."""
    lines = QUICK_LINES if quick else LINES
    result = Result("Ingest: an access log becomes counts", ["what", "seconds", "lines a second", "of GoAccess"])
    with scratch() as folder, valkey() as server:
        log = folder / "access.log"
        with log.open("wb") as file:
            make(lines, file)
        peer_seconds, peer = _goaccess(log, folder)
        seconds, summary = _ingest(log, server, "old", folder)
        found = _counts(server, "old")
        bad = sum(summary["bad"].values())
        found[BAD] = bad
        recent_seconds, _ = _ingest(_shifted(log), server, "recent", folder)
    peer_rate = lines / peer_seconds if peer_seconds else 0
    for what, taken in (
        ("hitledger ingest, a log of three weeks ago", seconds),
        ("hitledger ingest, the same of yesterday", recent_seconds),
    ):
        result.rows.append([what, taken, lines / taken, lines / taken / peer_rate if peer_rate else ""])
    if not peer_seconds:
        result.notes.append("GoAccess is not installed: nothing to compare with.")
        return result
    result.rows.append(["GoAccess, its JSON report", peer_seconds, peer_rate, 1])
    unlike = sum((found - peer).values()) + sum((peer - found).values())
    result.bars = [
        Bar("lines a second, of GoAccess's", peer_seconds / seconds, LEAST_OF_GOACCESS),
        Bar("hits that the two count under different URLs", unlike, 0, at_least=False),
    ]
    result.notes += [
        f"{lines:,} lines, {log_size(summary)}: {summary['counted']:,} counted, {bad:,} bad, {summary['urls']:,} URLs.",
        "GoAccess lists 404s by URL in a panel of their own; hitledger counts them on the line (unmatched).",
        "GoAccess lists what is no request line as a URL; hitledger says how many there are, and keeps them out.",
    ]
    return result


def log_size(summary: dict[str, Any]) -> str:
    """Return how large the log was."""
    return f"{summary['bytes'] / 2**20:,.0f} MiB"


def _ingest(log: Path, server: Valkey, prefix: str, folder: Path) -> tuple[float, dict[str, Any]]:
    environment = {
        **os.environ,
        "HITLEDGER_REDIS_URL": server.url,
        "HITLEDGER_KEY_PREFIX": prefix,
        "HITLEDGER_DATA_DIR": str(folder / "data"),
    }
    began = perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "hitledger", "ingest", "--json", str(log)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        timeout=MOST_SECONDS,
        check=True,
    )
    return perf_counter() - began, {**json.loads(done.stdout), "bytes": log.stat().st_size}


def _counts(server: Valkey, prefix: str) -> Counter[str]:
    store = LedgerStore(Settings(redis_url=server.url, key_prefix=prefix))
    found = Counter(counts_of(store))
    store.close()
    return found


def _shifted(log: Path) -> Path:
    """Move a log's day to yesterday, in place."""
    yesterday = f"{datetime.now(UTC) - timedelta(days=1):%d/%b/%Y}".encode()
    shifted = log.with_name("shifted.log")
    with log.open("rb") as old, shifted.open("wb") as new:
        new.writelines(line.replace(DAY, yesterday, 1) for line in old)
    log.unlink()
    return shifted


def _goaccess(log: Path, folder: Path) -> tuple[float, Counter[str]]:
    """Return the seconds that GoAccess takes, and its hits by URL with all 404s on one line; zero without it."""
    if not shutil.which("goaccess"):
        return 0, Counter()
    report = folder / "report.json"
    command = [
        "goaccess", str(log), "--log-format=COMBINED", "--no-global-config", "--no-query-string", "--no-progress",
        "--max-items=100000000", "--http-method=no", "--http-protocol=no", "-o", str(report),
    ]  # fmt: skip
    began = perf_counter()
    subprocess.run(command, capture_output=True, timeout=MOST_SECONDS, check=True)
    seconds = perf_counter() - began
    panels = json.loads(report.read_text("utf-8", "replace"))
    found: Counter[str] = Counter()
    for panel in ("requests", "static_requests"):
        for row in panels.get(panel, {}).get("data", []):
            url = row["data"] if row["data"].startswith("/") else BAD
            found[url] += row["hits"]["count"]
    missing: Counter[str] = Counter()
    for row in panels.get("not_found", {}).get("data", []):
        missing[row["data"]] += row["hits"]["count"]
    found["(unmatched)"] = missing.total()
    report.unlink()
    return seconds, found
