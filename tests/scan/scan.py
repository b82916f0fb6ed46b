"""Rounds of schemathesis on a real service, until enough cases are made; its memory is read after each."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from hitledger.apikeys import ApiKeys
from hitledger.embedded import EmbeddedValkey
from hitledger.ledger import LedgerStore
from hitledger.rights import RIGHTS
from hitledger.settings import Settings
from tests.ports import free_port
from tests.processes import Running

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
ROOT = Path(__file__).parent.parent.parent
URLS = 12_000
"""As many as the ledger takes, and more than a page has."""
RUNS = 1000
"""As many as a list has."""
MOST_GROWTH = 1.1
"""Memory after the last round over that after the first, when every cache is warm."""


@dataclass(frozen=True)
class Plan:
    """What to scan with. `examples` bounds each operation's cases in each phase of a round."""

    seed: int
    cases: int
    examples: int = 150
    who: str = "anybody"
    """Who asks: `anybody`, where no authentication is set; where it is, the `holder` of a key or a `stranger`."""


@dataclass(frozen=True)
class Target:
    """What is scanned, and what every request carries."""

    url: str
    headers: Mapping[str, str]


@dataclass
class Verdict:
    """What the rounds made and found."""

    seed: int
    cases: int = 0
    failures: list[str] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """The service's memory after the last round over that after the first."""
        return self.memory_bytes[-1] / self.memory_bytes[0]

    @property
    def is_good(self) -> bool:
        """True where nothing failed and memory is flat."""
        return not self.failures and (len(self.memory_bytes) < 2 or self.growth <= MOST_GROWTH)

    def __str__(self) -> str:
        memory = ", ".join(f"{each / 2**20:.0f}" for each in self.memory_bytes)
        lines = [f"{self.cases:,} cases, {len(self.failures)} kinds of failure; MiB after each round: {memory}"]
        return "\n".join([*lines, *self.failures])


def scan(plan: Plan, say: Callable[[str], None] = lambda _: None) -> Verdict:
    """Run a service with a ledger of its own, and scan it; `say` is told of each round."""
    verdict = Verdict(plan.seed)
    with tempfile.TemporaryDirectory(prefix="hitledger-", ignore_cleanup_errors=True) as directory:
        folder = Path(directory)
        port = free_port()
        environment = {
            "HITLEDGER_DATA_DIR": str(folder / "data"),
            "HITLEDGER_PORT": str(port),
            "HITLEDGER_WORKERS": "1",
            "HITLEDGER_TEST_MAX_REQUESTS": "50",
            "HITLEDGER_MAX_URLS": str(URLS),
            "HITLEDGER_AUTH": "none" if plan.who == "anybody" else "keys",
        }
        with Running([sys.executable, "-m", "hitledger", "serve"], environment) as service:
            service.line_with("Serving on")
            headers = {"Authorization": f"Bearer {_key(folder / 'data')}"} if plan.who == "holder" else {}
            _fill(port, headers)
            while verdict.cases < plan.cases and not verdict.failures:
                _round(plan, verdict, folder / "report.json", Target(f"http://127.0.0.1:{port}", headers))
                verdict.memory_bytes.append(_memory_of(service))
                say(f"{verdict}")
            if service.process.poll() is not None:
                verdict.failures.append("the service has ended")
            service.end()
    return verdict


def _round(plan: Plan, verdict: Verdict, report: Path, target: Target) -> None:
    seed = plan.seed + len(verdict.memory_bytes)
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION),
        "run", f"{target.url}/openapi.json", "--url", target.url, "--checks", "all", "--seed", str(seed),
        "--max-examples", str(plan.examples), "--report-json-path", str(report), "--no-color",
        *(word for name, value in target.headers.items() for word in ("--header", f"{name}:{value}")),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=report.parent, env=environment, capture_output=True, text=True, check=False)
    if not report.exists():
        verdict.failures.append(f"schemathesis failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return
    found: dict[str, Any] = json.loads(report.read_text())
    verdict.cases += found["test_cases"]["generated"]
    verdict.failures += [f"{each['code']} {each['title']}: {each['operations']}" for each in found["failures"]]
    verdict.failures += [str(each) for each in found["errors"]]
    if not found["complete"] or found["operations"]["tested"] < found["operations"]["selected"]:
        verdict.failures.append(f"the round is not complete: {found['stop_reason']}")
    if verdict.failures:
        verdict.failures.append(done.stdout[-8000:])
    report.unlink()


def _fill(port: int, headers: Mapping[str, str]) -> None:
    """Request and run so much that pages, exports and lists are as long as they get: else memory grows with them."""
    connection = HTTPConnection("127.0.0.1", port)
    for number in range(URLS):
        connection.request("GET", f"/api/filled/{number}/")
        connection.getresponse().read()
    for _ in range(RUNS):
        connection.request("POST", "/test/1/", headers={**headers, "Prefer": "respond-async"})
        connection.getresponse().read()
    # What writes Parquet is loaded when it is first asked for, and takes some 60 MiB.
    connection.request("GET", "/stats/export?format=parquet", headers=dict(headers))
    connection.getresponse().read()
    connection.close()


def _key(data_dir: Path) -> str:
    """Make an API key that may do everything in a running service's ledger."""
    store = LedgerStore(Settings(redis_url=EmbeddedValkey(data_dir).url, data_dir=data_dir))
    try:
        return ApiKeys(store).create("scan", frozenset(RIGHTS))[0]
    finally:
        store.close()


def _memory_of(service: Running) -> int:
    """Return the bytes that the service's own processes hold; the ledger's grow with what it counts."""
    pids = set(service.left("hitledger")) - set(service.left("valkey-server"))
    found = [re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()) for pid in pids]
    return sum(int(each[1]) for each in found if each) * 1024
