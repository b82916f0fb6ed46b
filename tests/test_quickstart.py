"""`make run` in a fresh clone, as a newcomer does it: it serves, Ctrl-C ends it, and the counts are kept."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
import requests

from tests.ports import free_port
from tests.processes import Running
from tests.support import wait_until

ROOT = Path(__file__).parent.parent

pytestmark = [pytest.mark.slow, pytest.mark.quickstart]


class Service:
    """`make run` on a port of its own, in a process group of its own, as in a terminal."""

    def __init__(self, clone: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        port = self.url.rpartition(":")[2]
        self.running = Running(["make", "-C", clone, "run"], {"HITLEDGER_PORT": port, "HITLEDGER_WORKERS": "2"})

    def wait(self, seconds: float) -> None:
        """Wait until it answers, or has ended."""
        wait_until(lambda: self.running.process.poll() is not None or self._answers(), seconds)
        assert self.running.process.poll() is None, self.running.output()

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/readyz", timeout=5).ok
        except requests.RequestException:  # not there yet, or busy with its start
            return False

    def press_control_c(self) -> None:
        """Send what a terminal sends: SIGINT to the whole process group."""
        os.killpg(self.running.process.pid, signal.SIGINT)
        self.running.process.wait(20)

    def total(self) -> int:
        """Return the report's total."""
        total: int = requests.get(f"{self.url}/stats/", timeout=20).json()["total_requests"]
        return total


def test_make_run_serves_stops_and_keeps(tmp_path: Path) -> None:
    """A fresh clone serves with `make run`; Ctrl-C leaves no process behind; started again, the counts are there."""
    clone = tmp_path / "clone"
    if subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=False).returncode:
        pytest.skip("not in a git checkout")
    first = Service(clone)
    with first.running:
        first.wait(300)
        for _ in range(3):
            assert requests.get(f"{first.url}/api/one/", timeout=20).json() == {"url": "/api/one/"}
        total = first.total()
        assert total >= 3
        first.press_control_c()
        assert first.running.left() == []
    second = Service(clone)
    with second.running:
        second.wait(30)
        assert second.total() == total + 1  # the first report counts since it was answered
        second.press_control_c()
        assert second.running.left() == []
