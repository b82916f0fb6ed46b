"""How many hits wait in this host's journal, counted as cheaply as a page that is drawn each second needs.

Every byte behind the watermarks is read once, and only so many in one look: what a long outage has
piled up takes some looks to count, and meanwhile it is said that there are more.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hitledger.host import Host
from hitledger.journal import HEADER_BYTES

MOST_BYTES_A_LOOK = 64 * 2**20
"""About 30 ms."""
CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Waiting:
    """Records that were found; `whole` is False where there are more than could be counted yet."""

    hits: int
    whole: bool


@dataclass
class _Counted:
    """Records of a file from one byte up to another."""

    start: int
    end: int
    hits: int = 0


class RecordCounter:
    """Counts the records behind a place in each of some files; each record begins with a line feed."""

    def __init__(self, most_bytes: int = MOST_BYTES_A_LOOK) -> None:
        self._most_bytes = most_bytes
        self._host = Host()
        self._counted: dict[Path, _Counted] = {}
        self._lock = threading.Lock()

    def count(self, places: Iterable[tuple[Path, int]]) -> Waiting:
        """Return how many records lie behind these places of their files; a file that is gone has none."""
        with self._lock:
            room, hits, whole = self._most_bytes, 0, True
            known, self._counted = self._counted, {}
            for path, place in places:
                start = max(place, HEADER_BYTES)
                counted = known.get(path)
                if counted is None or counted.start != start:
                    counted = _Counted(start, start)
                self._counted[path] = counted
                room, at_end = self._go_on(path, counted, room)
                hits += counted.hits
                whole = whole and at_end
            return Waiting(hits, whole)

    def _go_on(self, path: Path, counted: _Counted, room: int) -> tuple[int, bool]:
        """Count on in a file; return the bytes that may still be read, and whether its end was reached."""
        try:
            fd = self._host.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return room, True
        try:
            while room > 0:
                data = self._host.pread(fd, min(CHUNK_BYTES, room), counted.end)
                if not data:
                    return room, True
                counted.hits += data.count(b"\n")
                counted.end += len(data)
                room -= len(data)
            return room, counted.end >= self._host.size(fd)
        finally:
            self._host.close(fd)
