"""Adding URLs up by the million, in bounded memory.

A `Tally` is a table of name -> number. Where it would hold more than `MOST_IN_MEMORY` names,
it is split by a hash of the name over temporary files, and each of those is added up alone in
the end. Names are bytes: they come as such from the ledger and go as such into a file.
"""

from __future__ import annotations

import marshal
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import repeat
from operator import add
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from zlib import crc32

MOST_IN_MEMORY = 1_000_000
"""Names held at a time: about 130 MB with URLs of 40 bytes."""
SPLIT_WAYS = 16


class Tally:
    """Names and numbers; a name that is noted again has both numbers added up, or keeps the later one.

    Use it as a context manager: it may hold temporary files, which have no names. `shards` are
    those of the ledger, so that names of one shard are split by what the shard does not say.
    """

    def __init__(
        self, directory: Path, *, keep_latest: bool = False, shards: int = 1, most: int = MOST_IN_MEMORY
    ) -> None:
        self._directory = directory
        self._keep_latest = keep_latest
        self._shards = shards
        self._most = most
        self._numbers: Counter[bytes] = Counter()
        self._files: list[IO[bytes]] = []
        self._sizes: list[list[int]] = []

    def __enter__(self) -> Self:
        """Return the tally."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop the temporary files."""
        for file in self._files:
            file.close()

    def note(self, names: list[bytes], numbers: Iterable[int]) -> None:
        """Note names with their numbers."""
        self._take(self._numbers, names, numbers)
        if len(self._numbers) > self._most:
            self._spill()

    def note_ones(self, names: list[bytes]) -> None:
        """Note names, each with the number 1, to be added up: twice as quick as `note`."""
        assert not self._keep_latest
        self._numbers.update(names)
        if len(self._numbers) > self._most:
            self._spill()

    def _take(self, table: dict[bytes, int], names: list[bytes], numbers: Iterable[int]) -> None:
        if not self._keep_latest:
            # All of it runs in C. `zip` asks for one pair at a time, so a name may come twice.
            numbers = map(add, map(table.get, names, repeat(0)), numbers)
        dict.update(table, zip(names, numbers, strict=False))

    def _spill(self) -> None:
        if not self._files:
            self._files = [tempfile.TemporaryFile(dir=self._directory) for _ in range(SPLIT_WAYS)]  # noqa: SIM115
        names: list[list[bytes]] = [[] for _ in self._files]
        numbers: list[list[int]] = [[] for _ in self._files]
        shards = self._shards
        for name, number in self._numbers.items():
            part = crc32(name) // shards % SPLIT_WAYS
            names[part].append(name)
            numbers[part].append(number)
        self._numbers = Counter()
        # Nobody else can open these files, and marshal is several times as quick as text.
        self._sizes.append(
            [file.write(marshal.dumps(table)) for file, *table in zip(self._files, names, numbers, strict=True)]
        )

    def tables(self) -> Iterator[dict[bytes, int]]:
        """Yield the tally part by part; names are in the part that `part_of` says. Ends the tally."""
        if not self._files:
            whole, self._numbers = self._numbers, Counter()
            yield whole
            return
        self._spill()
        for file, sizes in zip(self._files, zip(*self._sizes, strict=True), strict=True):
            table: dict[bytes, int] = {}
            file.seek(0)
            for size in sizes:
                self._take(table, *marshal.loads(file.read(size)))  # noqa: S302 - written above, by this very object
            file.close()
            yield table


def part_of(name: bytes, parts: int, shards: int) -> int:
    """Return the part that a name belongs to, of a tally that has one part or `SPLIT_WAYS`."""
    return crc32(name) // shards % parts
