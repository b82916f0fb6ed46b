"""A process whose every system call can be made to fail, for `test_syscalls`.

A nursery process has imported everything and forks one worker a point, so that what a worker
calls is what its work needs, and nothing of Python's start. The worker waits until `strace`
is attached, and tells of its progress over a socket, by calls that no fault is injected into.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hitledger.errors import HitledgerError
from hitledger.journal import PATH, JournalWriter
from hitledger.ledger import LedgerStore
from hitledger.posting import Poster
from hitledger.settings import Settings

ROOT = Path(__file__).parent.parent
HITS = 10
FILE_BYTES = 400

CHANGING = ("write", "pwrite64", "openat", "mkdir", "rename", "unlink", "fsync", "fdatasync")
LOOKING = ("pread64", "newfstatat", "fstat", "getdents64", "close", "fcntl", "flock")
"""The system calls on a hit's path and in posting that can fail: those that may ask for room, and the others."""

FAULTS = ("EIO", "EIO for good", "EINTR", "kill")
FAULTS_OF_CHANGES = (*FAULTS, "ENOSPC", "EDQUOT", "ENOSPC for good", "short")
"""What is made of a call: an error once, an error from then on, a kill before it, half of its work."""


# The worker


def append(settings: Settings, channel: socket.socket) -> None:
    """Note hits, look after the journal between them, and tell of each whether it was kept."""
    writer = JournalWriter(settings.journal_dir, sync=settings.journal_sync, file_bytes=FILE_BYTES)
    for number in range(HITS):
        channel.send(b"1" if writer.append(PATH, b"/%d" % number) else b"0")
        if number % 3 == 2:
            with suppress(OSError):
                writer.maintain()
    with suppress(OSError):
        writer.close()


def post(settings: Settings, channel: socket.socket) -> None:
    """Post what there is and let the files go; then once more, when the fault is over."""
    store = LedgerStore(settings)
    poster = Poster(settings, store)
    for step in (poster.post_now, poster.round, poster.round, poster.round, poster.post_now):
        try:
            step()
            channel.send(b"1")
        except (OSError, HitledgerError):
            channel.send(b"0")
    poster.close()
    store.close()


WORKS: dict[str, Callable[[Settings, socket.socket], None]] = {"append": append, "post": post}


def work(order: dict[str, Any]) -> None:
    """Be a worker: connect, wait, do it, and say that it is done."""
    settings = Settings(
        redis_url=order["url"], data_dir=Path(order["data_dir"]), key_prefix=order["prefix"],
        journal_sync=order["sync"], journal_hold_seconds=0,
    )  # fmt: skip
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel.connect(order["socket"])
    channel.send(str(os.getpid()).encode())
    channel.recv(16)
    WORKS[order["work"]](settings, channel)
    channel.send(b"done")
    os._exit(0)


def nursery(url: str) -> None:
    """Fork a worker for each order on standard input."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    metadata.version = cache(metadata.version)  # redis-py looks its version up for each connection
    channel, other_end = socket.socketpair()
    with tempfile.TemporaryDirectory() as folder, channel, other_end:
        # Whatever is imported or read late is imported and read now.
        settings = Settings(redis_url=url, data_dir=Path(folder), key_prefix="warm", journal_hold_seconds=0)
        append(settings, channel)
        post(settings, channel)
    for line in sys.stdin:
        if not os.fork():
            work(json.loads(line))


# The harness


@dataclass(frozen=True)
class Run:
    """What a worker told, whether it came to its end, and the calls that it made, by name."""

    told: list[bytes]
    finished: bool
    calls: Counter[str]
    injected: bool


class Nursery:
    """Starts workers with a fault each."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._socket = folder / "socket"
        folder.mkdir()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(self._socket))
        self._listener.listen()
        self._listener.settimeout(30)
        command = [sys.executable, "-c", f"from tests.syscalls import nursery; nursery({url!r})"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()
        self._listener.close()

    def run(self, work: str, settings: Settings, inject: str = "") -> Run:
        """Let a worker work, under strace with what it is to inject; wait until both have ended."""
        assert self._process.stdin
        order = {
            "work": work, "url": settings.redis_url, "data_dir": str(settings.data_dir), "prefix": settings.key_prefix,
            "sync": settings.journal_sync, "socket": str(self._socket),
        }  # fmt: skip
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        channel, _ = self._listener.accept()
        with channel:
            channel.settimeout(30)
            log = self._folder / "strace.log"
            command = [
                "strace",
                "-p",
                channel.recv(16).decode(),
                "-o",
                str(log),
                "-e",
                f"trace={','.join(CHANGING + LOOKING)}",
            ]
            tracer = subprocess.Popen(command + (["-e", f"inject={inject}"] if inject else []), stderr=subprocess.PIPE)
            assert tracer.stderr
            with tracer.stderr as said:
                assert b"attached" in said.readline()
                channel.send(b"go")
                told = list(iter(lambda: channel.recv(16), b""))
                tracer.wait(30)
        return self._read(told, log.read_text(errors="replace"))

    @staticmethod
    def _read(told: list[bytes], log: str) -> Run:
        calls = Counter(re.findall(r"^(\w+)\(", log, re.MULTILINE))
        injected = "(INJECTED)" in log or "killed by SIGKILL" in log
        finished = told[-1:] == [b"done"]
        return Run(told[:-1] if finished else told, finished, calls, injected)


def injection_of(call: str, fault: str, number: int) -> str:
    """Return what strace injects for a fault into the n-th call of a kind; nothing where that makes no sense."""
    if fault == "kill":
        return f"{call}:signal=KILL:when={number}"
    if fault == "short":
        return f"{call}:retval=5:when={number}" if call in ("write", "pwrite64") else ""
    code, _, for_good = fault.partition(" ")
    return f"{call}:error={code}:when={number}{'+' if for_good else ''}"
