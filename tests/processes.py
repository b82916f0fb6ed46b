"""Real programs for the tests: started with a mark, read line by line, and never left behind."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

MARK = "MARK_OF_A_TEST"
"""An environment variable that a program's own programs inherit: by it they are found."""


class Running:
    """A program that runs beside the test. Leaving the context kills whatever is left of it."""

    def __init__(
        self,
        command: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.folder = folder
        """Processes that work in it belong to the program too."""
        self.mark = uuid.uuid4().hex
        self.lines: list[str] = []
        """What it has written, to either stream."""
        self._new: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, **(environment or {}), MARK: self.mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @classmethod
    def python(cls, script: str, *arguments: str) -> Self:
        """Run a script."""
        return cls([sys.executable, "-c", script, *arguments])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in {self.process.pid, *self.left()}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(10)
        assert self.process.stdout
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._new.put(line.rstrip("\n"))
        self._new.put(None)

    def line_with(self, text: str, seconds: float = 60) -> str:
        """Wait for a line that holds a text and return it; fail when the output ends before."""
        while True:
            try:
                line = self._new.get(timeout=seconds)
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"no line with {text!r} in:\n" + "\n".join(self.lines))
            self.lines.append(line)
            if text in line:
                return line

    def output(self, seconds: float = 60) -> str:
        """Wait until nobody can write any more, and return all that was written."""
        while (line := self._new.get(timeout=seconds)) is not None:
            self.lines.append(line)
        return "\n".join(self.lines)

    def end(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Send a signal, wait for the end and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def left(self, *words: str) -> list[int]:
        """Return its processes, itself included, that have these words in their command line; the oldest first."""
        found = (
            entry
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and self._owns(entry) and all(word in _command(entry) for word in words)
        )
        return [pid for _, pid in sorted((_started(entry), int(entry.name)) for entry in found)]

    def _owns(self, entry: Path) -> bool:
        try:
            if f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                return True
            # Valkey writes its title over its environment.
            return self.folder is not None and (entry / "cwd").readlink().is_relative_to(self.folder)
        except OSError:
            return False


def _started(entry: Path) -> int:
    """Return when a process was started, in ticks since the machine was; their numbers begin anew some day."""
    with suppress(OSError):
        return int((entry / "stat").read_text().rpartition(")")[2].split()[19])
    return 0


def _command(entry: Path) -> str:
    with suppress(OSError):
        return (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    return ""
