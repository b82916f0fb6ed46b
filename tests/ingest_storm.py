"""A log is ingested by processes that are killed at random, beside each other, while it grows and is rotated.

Ends with one whole run over every file, and compares with the plain model.
"""

from __future__ import annotations

import gzip
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.logs import log_lines, naive

HOSTS = 2
"""Logs of as many hosts, which begin alike."""


class IngestStorm:
    """A folder of logs, and the model's counts of all that was ever written to them."""

    def __init__(self, folder: Path, environment: Mapping[str, str], seed: int) -> None:
        self.folder = folder
        self.kills = 0
        self._environment = {**os.environ, **environment}
        self._draw = random.Random(seed)
        self._seed = seed
        self._written: list[bytes] = []
        self._rotations = 0
        first_line = log_lines(1)
        for host in range(HOSTS):
            self._append(host, first_line)

    def run(self, kills: int, most_seconds: float) -> dict[str, int]:
        """Kill so many runs at random moments, let one run to its end, and return what it must have counted."""
        while self.kills < kills:
            for host in range(HOSTS):
                self._append(host, log_lines(3000, self._draw.randrange(10**9), urls=20_000))
            if self._draw.random() < 0.3:
                self._rotate(self._draw.randrange(HOSTS))
            beside = [self._start(), self._start()] if self._draw.random() < 0.3 else [self._start()]
            for process in beside:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(self._draw.uniform(0.3, most_seconds))
                self.kills += process.poll() is None
                process.send_signal(signal.SIGKILL)
                process.wait()
        whole = self._start()
        if whole.wait(300) != 0:
            raise AssertionError(f"the last run ended with {whole.returncode}")
        return naive(b"".join(self._written))

    def _path(self, host: int) -> Path:
        return self.folder / f"host{host}.log"

    def _append(self, host: int, lines: bytes) -> None:
        with self._path(host).open("ab") as file:
            file.write(lines)
        self._written.append(lines)

    def _rotate(self, host: int) -> None:
        """Rename a log or copy and truncate it, and sometimes pack what is rotated."""
        self._rotations += 1
        path = self._path(host)
        rotated = path.with_name(f"{path.name}.{self._rotations}")
        if self._draw.random() < 0.5:
            path.rename(rotated)
        else:
            rotated.write_bytes(path.read_bytes())
            os.truncate(path, 0)
        if self._draw.random() < 0.5:
            rotated.with_name(rotated.name + ".gz").write_bytes(gzip.compress(rotated.read_bytes(), 1))
            rotated.unlink()

    def _start(self) -> subprocess.Popen[bytes]:
        files = [str(path) for path in self.folder.iterdir()]
        self._draw.shuffle(files)
        command = [sys.executable, "-m", "hitledger", "ingest", *files]
        return subprocess.Popen(
            command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
