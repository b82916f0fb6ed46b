"""A storm from its first request to its verdict."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hitledger.audit import audit
from hitledger.errors import LedgerError
from hitledger.ledger import LedgerStore
from tests.storm.injection import Injector
from tests.storm.schedule import Fault, schedule
from tests.storm.service import Service
from tests.storm.verdict import Verdict, compare
from tests.support import wait_until

TICK_SECONDS = 0.01
LOOK_SECONDS = 1.0
POSTED_WITHIN_SECONDS = 60.0


@dataclass(frozen=True)
class Plan:
    """A storm to come: its seed, its length in seconds, its faults a second, and what it meets."""

    seed: int
    seconds: float
    pace: float = 3.0
    connections: int = 12
    workers: int = 2
    shards: int = 1


def run(plan: Plan) -> Verdict:
    """Run a storm; its folder goes afterwards, unless something is wrong."""
    folder = Path(tempfile.mkdtemp(prefix="hitledger-storm-"))
    verdict = _Storm(plan, folder).run()
    if verdict.violations:
        verdict.violations.append(f"what is left is in {folder}")
    else:
        shutil.rmtree(folder)
    return verdict


class _Storm:
    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder
        self._service = Service(folder, plan.workers, shards=plan.shards)
        self._direct = replace(self._service.settings, redis_url=self._service.valkey.url)
        self._tick = threading.Event()
        self._told = (0.0, 0)
        """When the client last told how many requests it had sent, by the machine's monotonic clock, and how many."""
        self._too_much: list[str] = []

    def run(self) -> Verdict:
        """Blow, calm down, compare."""
        injector = Injector(self._service)
        try:
            client = self._start_client()
            began = time.monotonic()
            try:
                self._blow(injector, schedule(self._plan.seed, self._plan.seconds, self._plan.pace))
                self._service.calm()
                seconds = time.monotonic() - began
            finally:
                tally = self._end_client(client)
            posted_after = self._wait_until_posted()
            self._service.end_web()
            sums = {name: sum(tally[name].values()) for name in ("answered", "broken")}
            verdict = Verdict(
                self._plan.seed,
                seconds,
                dict(injector.faults),
                tally["sent"],
                **sums,
                all_posted_after_seconds=posted_after,
                shards=self._plan.shards,
            )
            return compare(verdict, tally, self._direct, self._too_much)
        finally:
            self._service.close()

    @property
    def _tally_file(self) -> Path:
        return self._folder / "tally.json"

    def _start_client(self) -> subprocess.Popen[str]:
        words = ["--port", self._service.settings.port, "--seed", self._plan.seed]
        words += ["--connections", self._plan.connections, "--tally", self._tally_file]
        command = [sys.executable, "-m", "tests.storm.client", *map(str, words)]
        client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._listen, args=(client,), daemon=True).start()
        wait_until(lambda: self._told[1])
        return client

    def _listen(self, client: subprocess.Popen[str]) -> None:
        assert client.stdout
        with client.stdout:
            for line in client.stdout:
                told_at, sent = line.split()
                self._told = float(told_at), int(sent)

    def _end_client(self, client: subprocess.Popen[str]) -> dict[str, Any]:
        assert client.stdin
        client.stdin.close()
        client.wait(60)
        tally: dict[str, Any] = json.loads(self._tally_file.read_text())
        return tally

    def _blow(self, injector: Injector, faults: list[Fault]) -> None:
        began = looked = time.monotonic()
        total = 0
        coming = iter(faults)
        fault = next(coming, None)
        while (now := time.monotonic()) - began < self._plan.seconds:
            self._service.tend()
            injector.undo_due(now)
            while fault and began + fault.at <= now:
                injector.inject(fault)
                fault = next(coming, None)
            told_at, sent = self._told
            if now - looked > LOOK_SECONDS and told_at > looked:
                # What was booked by the last look must have been sent before the client told after it.
                if total > sent:
                    self._too_much.append(f"the ledger held {total:,} hits when {sent:,} requests had been sent")
                total, looked = self._service.booked(), time.monotonic()
            self._tick.wait(TICK_SECONDS)

    def _wait_until_posted(self) -> float:
        """Wait until the service has posted everything by itself; return how long that took, in seconds."""
        began = time.monotonic()
        store = LedgerStore(self._direct)

        def is_posted() -> bool:
            self._service.tend()
            with suppress(LedgerError):
                return audit(self._direct, store).balance["pending"] == 0
            return False

        with suppress(AssertionError):  # the balance tells what is pending still
            wait_until(is_posted, POSTED_WITHIN_SECONDS, 0.1)
        store.close()
        return time.monotonic() - began
