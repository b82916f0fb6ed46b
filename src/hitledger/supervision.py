"""Keeping a few processes running, and ending them in order.

Guarantee: a program that ends is started again, at once the first time and then after
growing pauses; SIGTERM, SIGINT or SIGHUP end all programs, last started first, each within
its bound; and none outlives this process, even where it is killed with SIGKILL.

Why not supervisord, which does most of this (4.3 was tried): it reads what its programs
write through pipes and appends it to `/dev/fd/1`, which cannot be opened where standard
output is a socket, as in a systemd unit, so that every word was lost without one; it cannot
say when a program is ready; it closes inherited descriptors, and with them the data
folder's lock; it gives up on a program for good after a number of tries; and its programs
outlive it where it is killed. Working around these took more lines than this module has.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from hitledger.errors import ServiceError

FIRST_PAUSE_SECONDS = 0.1
MOST_PAUSE_SECONDS = 5.0
HURRY_AFTER_SECONDS = 1.0
"""A second signal this long after the first is meant: some senders, as timeout(1), send each one twice."""
STEADY_SECONDS = 10.0
"""A program that ran this long starts again without a pause to speak of."""
PR_SET_PDEATHSIG = 1
"""From prctl(2)."""

_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


@dataclass(frozen=True)
class Program:
    """What to run, and how long it may take to end after SIGTERM."""

    name: str
    command: Sequence[str]
    stop_seconds: float
    environment: Mapping[str, str] | None = None
    directory: Path | None = None
    hint: str = ""
    """What an operator should look at where it does not start."""


class Supervisor:
    """A context: what was started in it has ended when it is left.

    `say` is told, in one line each, what happens to the programs. `kept` are descriptors
    that every program inherits. Only the main thread may use it, and no other thread may run:
    programs are set up between fork and exec.
    """

    def __init__(self, say: Callable[[str], None], kept: Sequence[int] = ()) -> None:
        self._say = say
        self._kept = tuple(kept)
        self._running: list[_Running] = []
        self._asked_at: float | None = None
        self._hurried = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._restore = contextlib.ExitStack()

    def stopping(self) -> bool:
        """Tell whether somebody has asked for the end."""
        return self._asked_at is not None

    def __enter__(self) -> Self:
        """Take over the signals."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # started with nohup
            self._restore.callback(signal.signal, number, signal.signal(number, self._on_signal))
        old = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._restore.callback(signal.set_wakeup_fd, old)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every program, last started first, and give the signals back."""
        try:
            for running in reversed(self._running):
                self._stop(running)
        finally:
            self._restore.close()
            os.close(self._wake_read)
            os.close(self._wake_write)

    def start(self, program: Program, is_ready: Callable[[], bool] = lambda: False, seconds: float = 0) -> bool:
        """Start a program and wait until it is ready; False where that takes longer, or the end is asked for.

        Raises:
            ServiceError: it cannot be started, or has ended before it was ready.
        """
        if self.stopping():
            return False
        try:
            running = _Running(program, self._kept)
        except OSError as error:
            raise ServiceError(f"The {program.name} cannot be started: {error.strerror}.") from error
        self._running.append(running)
        deadline = time.monotonic() + seconds
        while not self.stopping() and time.monotonic() < deadline:
            if is_ready():
                return True
            if running.process.poll() is not None:
                raise ServiceError(f"The {program.name} ended at its start: {running.how_it_ended}.", program.hint)
            for other in self._running[:-1]:
                self._tend(other)
            self._wait(0.02)
        return False

    def watch(self) -> None:
        """Keep the programs running until a signal asks for the end."""
        while not self.stopping():
            pauses = [self._tend(running) for running in self._running]
            self._wait(min(pauses))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGCHLD:
            return
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
        self._hurried = now - self._asked_at > HURRY_AFTER_SECONDS

    def _wait(self, seconds: float) -> None:
        """Wait for any signal, the end of a program included, or for the time to pass."""
        select.select([self._wake_read], [], [], max(0.0, seconds))
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)

    def _tend(self, running: _Running) -> float:
        """Start a program again where it is due; return the seconds until it must be looked at again."""
        now = time.monotonic()
        if running.due is None:
            if running.process.poll() is None:
                return 1.0
            running.clear_up()
            pause = running.next_pause(now)
            running.due = now + pause
            self._say(f"The {running.program.name} ended: {running.how_it_ended}. It starts again in {pause:.1f} s.")
        if now < running.due:
            return running.due - now
        try:
            running.start()
        except OSError as error:
            running.due = now + running.next_pause(now)
            self._say(f"The {running.program.name} cannot be started: {error.strerror}.")
        return 1.0

    def _stop(self, running: _Running) -> None:
        """End a program and all that belongs to it; asked first, and killed when that takes too long."""
        process = running.process
        deadline = time.monotonic() + running.program.stop_seconds
        if process.poll() is None:
            process.terminate()
        while process.poll() is None:
            if time.monotonic() >= deadline or self._hurried:
                self._say(f"The {running.program.name} has not ended in time and is killed.")
                process.kill()
                process.wait()
            else:
                self._wait(min(0.5, deadline - time.monotonic()))
        running.clear_up()


class _Running:
    """A program's process, and when it is due to start again, if it has ended."""

    def __init__(self, program: Program, kept: tuple[int, ...]) -> None:
        self.program = program
        self.due: float | None = None
        self._kept = kept
        self._pause = FIRST_PAUSE_SECONDS
        self.start()

    def start(self) -> None:
        parent = os.getpid()
        # A session of its own: Ctrl-C at the terminal reaches the supervisor alone, which ends
        # the programs in order, and what a program leaves behind can be found by its group.
        self.process = subprocess.Popen(  # noqa: S603 - our own programs
            list(self.program.command),
            env=dict(self.program.environment) if self.program.environment is not None else None,
            cwd=self.program.directory,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=self._kept,
            preexec_fn=lambda: die_with(parent),  # noqa: PLW1509 - no other thread runs here
        )
        self.started = time.monotonic()
        self.due = None

    def next_pause(self, now: float) -> float:
        """Return how long to wait before the next start: longer and longer while it does not last."""
        if now - self.started >= STEADY_SECONDS:
            self._pause = FIRST_PAUSE_SECONDS
        pause, self._pause = self._pause, min(MOST_PAUSE_SECONDS, self._pause * 2)
        return pause

    def clear_up(self) -> None:
        """Kill what the program has left behind."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    @property
    def how_it_ended(self) -> str:
        """What an operator is told: a status or a signal."""
        code = self.process.returncode
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def die_with(parent: int) -> None:
    """Have this process killed when its parent dies, and at once where it is dead already.

    Only Linux can; elsewhere, a supervisor killed with SIGKILL leaves its programs behind.
    """
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
        if os.getppid() != parent:
            os._exit(1)
