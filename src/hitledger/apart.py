"""A process of its own for long work, so that nobody else's requests wait for it.

A web process has one interpreter lock: seconds of work in a thread would make each of its other
requests some milliseconds slower. Such a process is started for one task, steps back behind all
others, and ends with whoever started it.

    parent -> stdin:   the task, pickled
    child  -> stdout:  what its module says
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

NICENESS = 10


@contextmanager
def process_apart(module: str, task: object) -> Iterator[subprocess.Popen[bytes]]:
    """Have a process run a module's `main`, which gets the task by `task_apart`; kill it in the end.

    Raises:
        OSError: it cannot be started.
    """
    command = [sys.executable, "-P", "-c", f"from {module} import main; main()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603 - our own
        try:
            assert process.stdin
            with suppress(BrokenPipeError), process.stdin:
                pickle.dump(task, process.stdin)
            process.stdin = None  # all is said; `communicate` would flush it
            yield process
        finally:
            process.kill()


def task_apart() -> Any:
    """Step back behind all others, and return the task of this process."""
    os.nice(NICENESS)
    return pickle.load(sys.stdin.buffer)  # noqa: S301 - from the process that started this one
