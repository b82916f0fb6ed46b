"""Meters: the numbers that the processes of a host keep of themselves, for `/metrics`.

Each process has one small file, `<data>/meters/<n>.meters`, locked while it lives. The next
process to come takes over the first file that is free and adds to its numbers. So there are
never more files than processes at a time, and a sum over the files only ever grows, whoever
answers, whatever was killed: what a monitor takes for a counter.

    offset 0    256 bytes of header: "hitledger-meters 1", padded with spaces
    offset 256  rows of 256 bytes: <crc of the name: 8 hex> <name, padded with spaces to 120 bytes>,
                then 16 numbers of 64 bits, little-endian

Numbers are added in memory and written once a second, and before anybody reads: a process
that is killed takes up to a second of them along. None of this is the books: those are in
the journal and the ledger, which forget nothing. Needs the standard library only.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from zlib import crc32

from hitledger.forks import tell_of_forks
from hitledger.host import Host

log = logging.getLogger("hitledger.meters")

SUFFIX = ".meters"
ROW_BYTES = 256
CELLS = 16
NAME_BYTES = 120
MOST_ROWS = 512
"""Rows of a process: what does not fit in goes into `OTHERS`."""
MOST_FILES = 1024
OTHERS = "others"
LAST = "last "
"""How the names of rows begin that are not added up: the one with the greatest first number holds, as a rule a time."""
BUCKETS_MS = (0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)
"""Upper bounds of a histogram's cells, in milliseconds; one more is for what takes longer."""
_BUCKETS_NS = tuple(int(bound * 1_000_000) for bound in BUCKETS_MS)
SAVE_SECONDS = 1.0
RETRY_SECONDS = 10.0
"""How long numbers stay in memory only after a file could not be had."""
_HEADER = b"hitledger-meters 1".ljust(ROW_BYTES)
_CELLS = struct.Struct(f"<{CELLS}Q")


class Row:
    """Some numbers under one name."""

    __slots__ = ("cells", "name", "offset")

    def __init__(self, name: str, offset: int, cells: list[int]) -> None:
        self.name = name
        self.offset = offset
        self.cells = cells

    def merge(self, other: Row) -> None:
        """Take in another process's numbers: their sum, or what was last."""
        if self.name.startswith(LAST):
            self.cells = max(self.cells, other.cells)
        else:
            self.cells = [mine + theirs for mine, theirs in zip(self.cells, other.cells, strict=True)]

    def encode(self) -> bytes:
        """Return the row as it stands in the file."""
        text = self.name.encode()
        return (b"%08x" % crc32(text) + text.ljust(NAME_BYTES)) + _CELLS.pack(*self.cells)

    @classmethod
    def decode(cls, data: bytes, offset: int) -> Row | None:
        """Read what `encode` wrote; None where there is no whole row."""
        text = data[8 : 8 + NAME_BYTES].rstrip(b" ")
        if len(data) < ROW_BYTES or data[:8] != b"%08x" % crc32(text):
            return None
        return cls(text.decode("utf-8", "replace"), offset, list(_CELLS.unpack_from(data, 8 + NAME_BYTES)))


class Meters:
    """This process's numbers; safe among threads and after a fork. Nothing raises: numbers are no reason to fail."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._host = Host()
        self._sources: list[Callable[[], None]] = []
        self._begin()
        tell_of_forks(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, Row] = {}
        self._fd = -1
        self._retry_at = self._save_at = 0.0
        self._complained = False

    def _row(self, name: str) -> Row:
        """Return the row of that name; with the lock held, so that one name has one row."""
        found = self._rows.get(name)
        if found is None:
            if self._fd < 0:
                self._claim()
            if len(name.encode()) > NAME_BYTES or (len(self._rows) >= MOST_ROWS and name != OTHERS):
                return self._row(OTHERS)
            found = self._rows.setdefault(name, Row(name, ROW_BYTES * (len(self._rows) + 1), [0] * CELLS))
        return found

    def add(self, name: str, cell: int, count: int = 1) -> None:
        """Add to one number."""
        with self._lock:
            self._row(name).cells[cell] += count

    def observe(self, name: str, *nanoseconds: int) -> None:
        """Add durations to a histogram: a cell for their sum, one for each of `BUCKETS_MS`, and one more."""
        with self._lock:
            cells = self._row(name).cells
            for each in nanoseconds:
                cells[0] += each
                cells[bisect_left(_BUCKETS_NS, each) + 1] += 1

    def set(self, name: str, *cells: int) -> None:
        """Set a row's first numbers, and have them in the file at once."""
        with self._lock:
            row = self._row(name)
            row.cells[: len(cells)] = cells
            if self._fd >= 0:
                with suppress(OSError):
                    self._host.pwrite(self._fd, row.encode(), row.offset)

    def save_if_due(self) -> None:
        """Write the numbers down once a second; called more often from the background."""
        if time.monotonic() >= self._save_at:
            self.save()

    def feed(self, source: Callable[[], None]) -> None:
        """Have somebody asked for numbers that wait with him, before they are written down."""
        self._sources.append(source)

    def save(self) -> None:
        """Write the numbers down now."""
        for source in self._sources:
            source()
        with self._lock:
            self._save_at = time.monotonic() + SAVE_SECONDS
            if self._fd < 0:
                self._claim()
            if self._fd >= 0 and self._rows:
                data = b"".join(row.encode() for row in self._rows.values())
                with suppress(OSError):
                    self._host.pwrite(self._fd, data, ROW_BYTES)

    def read(self) -> dict[str, list[int]]:
        """Return the numbers of all processes of this host by their names, this one's as they are now."""
        self.save()
        found: dict[str, Row] = {}
        for row in self._read():
            if row.name in found:
                found[row.name].merge(row)
            else:
                found[row.name] = row
        return {name: row.cells for name, row in found.items()}

    def _read(self) -> Iterator[Row]:
        if self._fd < 0:
            with self._lock:
                yield from [Row(row.name, 0, list(row.cells)) for row in self._rows.values()]
        with suppress(OSError):
            for path, _ in self._host.files(self._directory, SUFFIX):
                with suppress(OSError):
                    yield from _rows_of(path.read_bytes())

    def close(self) -> None:
        """Write the numbers down and leave the file to the next process."""
        self.save()
        with self._lock:
            self._drop_file()
            self._begin()

    def _claim(self) -> None:
        """Take over the first file that no living process has, and go on from its numbers."""
        if time.monotonic() < self._retry_at:
            return
        try:
            self._host.make_directory(self._directory)
            for number in range(MOST_FILES):
                if self._take(self._directory / f"{number}{SUFFIX}"):
                    return
        except OSError as error:
            if not self._complained:
                log.warning("figures of this process stay in its memory: %s", error)
            self._complained = True
        self._retry_at = time.monotonic() + RETRY_SECONDS

    def _take(self, path: Path) -> bool:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = self._host.open(path, flags, 0o600)
        try:
            if not self._host.lock(fd):
                self._host.close(fd)
                return False
            found = list(_rows_of(self._host.pread(fd, ROW_BYTES * (MOST_ROWS + 2), 0)))
            # Another version's numbers mean something else, and a damaged row ends what can be gone on from.
            os.ftruncate(fd, ROW_BYTES * (len(found) + 1))
            self._host.pwrite(fd, _HEADER, 0)
        except OSError:
            self._host.close(fd)
            raise
        self._fd = fd
        before, self._rows = self._rows, {row.name: row for row in found}
        for row in before.values():
            self._row(row.name).merge(row)
        return True

    def _drop_file(self) -> None:
        if self._fd >= 0:
            with suppress(OSError):
                self._host.close(self._fd)
            self._fd = -1

    def after_fork_in_child(self) -> None:
        """Let go of what is the parent's, and begin anew."""
        # The file, its lock and its numbers are the parent's.
        self._drop_file()
        self._begin()


def _rows_of(data: bytes) -> Iterator[Row]:
    if not data.startswith(_HEADER.rstrip()):
        return
    for offset in range(ROW_BYTES, len(data), ROW_BYTES):
        row = Row.decode(data[offset : offset + ROW_BYTES], offset)
        if row is None:
            return
        yield row
