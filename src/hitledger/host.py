"""What the journal and posting ask of the machine: its files, its clocks, its random bits.

One narrow object, so that a test can put a machine in its place that loses what was not
synced, tears writes and fails on demand, and run the code that is shipped on it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path


class Host:
    """The real machine. Every method raises OSError as the system call behind it does."""

    # The plain system calls, bound as they are: a hit pays for nothing else.
    write = staticmethod(os.write)
    pread = staticmethod(os.pread)
    pwrite = staticmethod(os.pwrite)
    open = staticmethod(os.open)
    close = staticmethod(os.close)
    dup = staticmethod(os.dup)
    fsync = staticmethod(os.fsync)
    fdatasync = staticmethod(os.fdatasync)
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    def size(self, fd: int) -> int:
        """Return an open file's size in bytes."""
        return os.fstat(fd).st_size

    def is_named(self, fd: int, path: Path) -> bool:
        """Tell whether an open file still stands under its name."""
        try:
            return os.path.samestat(os.fstat(fd), path.stat())
        except FileNotFoundError:
            return False

    def lock(self, fd: int) -> bool:
        """Take the exclusive lock of an open file, now or not at all; tell whether it was had."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self, fd: int) -> None:
        """Give an open file's lock back."""
        fcntl.flock(fd, fcntl.LOCK_UN)

    def make_directory(self, directory: Path) -> None:
        """Make a directory, and those above it, for this user alone; one that is there is fine."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def files(self, directory: Path, suffix: str) -> list[tuple[Path, int]]:
        """Return the files of a directory that end so, by name, with their sizes in bytes."""
        found = []
        with suppress(FileNotFoundError), os.scandir(directory) as entries:
            for entry in entries:
                # One that another process deletes meanwhile is not there, and all others are.
                with suppress(FileNotFoundError):
                    if entry.name.endswith(suffix):
                        found.append((directory / entry.name, entry.stat().st_size))
        return sorted(found)

    def names(self, directory: Path, suffix: str) -> set[str]:
        """Return the names of the files of a directory that end so, without asking for each file's size."""
        try:
            with os.scandir(directory) as entries:
                return {entry.name for entry in entries if entry.name.endswith(suffix)}
        except FileNotFoundError:
            return set()

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name in its directory."""
        old.rename(new)

    def unlink(self, path: Path) -> None:
        """Delete a file; one that is gone is fine."""
        path.unlink(missing_ok=True)

    def sync_directory(self, directory: Path) -> None:
        """Make the names in a directory durable."""
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def random_hex(self, count: int) -> str:
        """Return that many random bytes, as hex."""
        return secrets.token_hex(count)
