"""Adding URLs up by the million, in bounded memory.

A `Tally` is a table of name -> number. Where it would hold more than `MOST_IN_MEMORY` names,
it is split by a hash of the name over temporary files, and each of those is added up alone in
the end. Names are bytes: they come as such from the ledger and go as such into a file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice, repeat
from operator import add
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from zlib import crc32

MOST_IN_MEMORY = 1_000_000
"""Names held at a time: about 130 MB with URLs of 40 bytes."""
SPLIT_WAYS = 16
_PIECE = 50_000


class Tally:
    """Names and numbers; a name that is noted again has both numbers added up, or keeps the later one.

    Use it as a context manager: it may hold temporary files, which have no names.
    """

    def __init__(self, directory: Path, *, keep_latest: bool = False, most: int = MOST_IN_MEMORY) -> None:
        self._directory = directory
        self._keep_latest = keep_latest
        self._most = most
        self._numbers: dict[bytes, int] = {}
        self._files: list[IO[bytes]] = []

    def __enter__(self) -> Self:
        """Return the tally."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop the temporary files."""
        for file in self._files:
            file.close()

    @property
    def parts(self) -> int:
        """Into how many parts the tally has been split; 1 while all of it is in memory."""
        return len(self._files) or 1

    def note(self, names: list[bytes], numbers: Iterable[int]) -> None:
        """Note names with their numbers."""
        self._take(self._numbers, names, numbers)
        if len(self._numbers) > self._most:
            self._spill()

    def _take(self, table: dict[bytes, int], names: list[bytes], numbers: Iterable[int]) -> None:
        if not self._keep_latest:
            # All of it runs in C. `zip` asks for one pair at a time, so a name may come twice.
            numbers = map(add, map(table.get, names, repeat(0)), numbers)
        table.update(zip(names, numbers, strict=False))

    def _spill(self) -> None:
        if not self._files:
            self._files = [tempfile.TemporaryFile(dir=self._directory) for _ in range(SPLIT_WAYS)]  # noqa: SIM115
        buckets: list[list[bytes]] = [[] for _ in self._files]
        for name, number in self._numbers.items():
            buckets[part_of(name, SPLIT_WAYS)].append(b"%s %d" % (name, number))
        self._numbers = {}
        for file, lines in zip(self._files, buckets, strict=True):
            if lines:
                file.write(b"\n".join(lines) + b"\n")

    def tables(self) -> Iterator[dict[bytes, int]]:
        """Yield the tally part by part; names are in the part that `part_of` says. Ends the tally."""
        if not self._files:
            table, self._numbers = self._numbers, {}
            yield table
            return
        self._spill()
        for file in self._files:
            table = {}
            file.seek(0)
            while lines := list(islice(file, _PIECE)):
                words = b"".join(lines).split()
                self._take(table, words[::2], map(int, words[1::2]))
            file.close()
            yield table


def part_of(name: bytes, parts: int) -> int:
    """Return the part that a name belongs to."""
    return crc32(name) % parts if parts > 1 else 0
