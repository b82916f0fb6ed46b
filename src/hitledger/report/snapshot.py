"""A report that had to be added up first, as a file: rows in order, ready to page through.

    part 0's rows | part 1's rows | ... | head (JSON) | length of the head (8 bytes, big-endian)

A row is one line, "URL requests" or "section requests URLs"; each part stands in the report's
order, and `tally.part_of` says which part a URL is in. A page is found by halving, so it costs
the same at any depth. Files are written under another name and renamed: whoever opens one has
a whole one, for as long as it is held open. Nothing of a report is ever written to the ledger.
"""

from __future__ import annotations

import json
import mmap
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from hitledger.entries import shard_of
from hitledger.report.cursor import Place
from hitledger.report.source import STREAM_ROWS, Flat, Slice
from hitledger.report.tally import part_of

FORMAT = 2
URLS_SHIFT = 44
"""A section's number is its requests, and below this bit its number of URLs."""
_LENGTH_BYTES = 8
_LINE_BYTES = 64
_RUN = 20_000


@dataclass(frozen=True)
class Head:
    """What stands beside the rows.

    `versions` is how many hits each period had in each shard when its reading began: if they
    are the same later, nothing has changed. `requests` and `urls` are those of the rows;
    `total_requests`, `total_urls` and `other` those of the whole time that is covered.
    """

    as_of: str
    versions: list[str]
    seconds: float = 0.0
    total_requests: int = 0
    other: dict[str, int] = field(default_factory=dict)
    total_urls: int | None = None
    requests: int = 0
    urls: int = 0
    rows: int = 0
    width: int = 2
    parts: list[tuple[int, int]] = field(default_factory=list)
    shards: int = 1
    splits: list[int] = field(default_factory=list)
    """How many parts each of the ledger's shards has; one number where all have them in common."""
    format: int = FORMAT

    @property
    def moment(self) -> datetime:
        """When its reading began."""
        return datetime.fromisoformat(self.as_of)


class SnapshotWriter:
    """Writes the parts of a snapshot, one after another."""

    def __init__(self, file: IO[bytes], width: int) -> None:
        self._file = file
        self.width = width
        self.parts: list[tuple[int, int]] = []
        self.requests = self.urls = self.rows = 0

    def write(self, table: dict[bytes, int]) -> None:
        """Write one part. `table` has requests, or with a width of 3 also URLs, see `URLS_SHIFT`."""
        start = self._file.tell()
        by_number: defaultdict[int, list[bytes]] = defaultdict(list)
        for name, number in table.items():
            by_number[number].append(name)
        for requests, run in self._runs(by_number):
            self._file.writelines(run)
            self.requests += requests
        self.rows += len(table)
        self.parts.append((start, self._file.tell()))

    def _runs(self, by_number: dict[int, list[bytes]]) -> Iterator[tuple[int, Iterator[bytes]]]:
        if self.width == 2:
            for number in sorted(by_number, reverse=True):
                names = by_number.pop(number)
                # Mostly runs that are in order already: a sort that knows runs is quick with them.
                names.sort(reverse=True)
                self.urls += len(names)
                yield number * len(names), _lines(names, b" %d\n" % number)
            return
        by_requests: defaultdict[int, list[tuple[bytes, int]]] = defaultdict(list)
        for number, names in by_number.items():
            requests, urls = number >> URLS_SHIFT, number & ((1 << URLS_SHIFT) - 1)
            self.urls += urls * len(names)
            by_requests[requests] += [(name, urls) for name in names]
        for requests in sorted(by_requests, reverse=True):
            pairs = sorted(by_requests[requests], reverse=True)
            lines = (b"%s %d %d\n" % (name, requests, urls) for name, urls in pairs)
            yield requests * len(pairs), lines


def _lines(names: list[bytes], end: bytes) -> Iterator[bytes]:
    for start in range(0, len(names), _RUN):
        yield end.join(names[start : start + _RUN]) + end


@contextmanager
def new_snapshot(path: Path, width: int) -> Iterator[tuple[SnapshotWriter, list[Head]]]:
    """Write a snapshot; what the block appends to the list becomes its head, and the file gets its name."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix="building-", delete=False) as file:
        try:
            writer, heads = SnapshotWriter(file, width), list[Head]()
            yield writer, heads
            (head,) = heads
            text = json.dumps(asdict(head)).encode()
            file.write(text + len(text).to_bytes(_LENGTH_BYTES))
            file.flush()
            Path(file.name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(file.name).unlink()
            raise


class Snapshot:
    """A snapshot that is open; a source of rows. Raises OSError or ValueError where there is none."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        length = int.from_bytes(self._map[-_LENGTH_BYTES:])
        content: dict[str, Any] = json.loads(self._map[-_LENGTH_BYTES - length : -_LENGTH_BYTES])
        if content.get("format") != FORMAT:
            raise ValueError("a snapshot of another version")
        self.head = Head(**content)
        self.parts = len(self.head.parts)
        self.width = self.head.width

    def close(self) -> None:
        """Close it."""
        self._map.close()

    def read(self, slices: Sequence[Slice]) -> list[Flat]:
        """Read slices of parts."""
        return [self._read(each.part, self._find(each.part, each.behind), each.rows)[0] for each in slices]

    def walk(self, part: int, behind: Place | None) -> Iterator[Flat]:
        """Yield all rows of a part behind a place, in pieces."""
        at = self._find(part, behind)
        while True:
            flat, at = self._read(part, at, STREAM_ROWS)
            if flat:
                yield flat
            if len(flat) < self.width * STREAM_ROWS:
                return

    def part_of(self, url: str) -> int:
        """Return the part that a URL is in."""
        head = self.head
        group = shard_of(url, head.shards) if len(head.splits) > 1 else 0
        return sum(head.splits[:group]) + part_of(url.encode(), head.splits[group], head.shards)

    def _find(self, part: int, behind: Place | None) -> int:
        """Return where the first line begins whose row comes after a place."""
        low, high = self.head.parts[part]
        if behind is None:
            return low
        place = (behind[0], behind[1].encode())
        while low < high:
            middle = self._map.rfind(b"\n", low, (low + high) // 2) + 1 or low
            end = self._map.find(b"\n", middle) + 1
            name, number = self._map[middle:end].split()[:2]
            if (int(number), name) < place:
                high = middle
            else:
                low = end
        return low

    def _read(self, part: int, at: int, rows: int) -> tuple[Flat, int]:
        """Return up to so many rows from a line on, and where the next line begins."""
        last = self.head.parts[part][1]
        end, found = at, 0
        while found < rows and end < last:
            step = min(last, end + (rows - found) * _LINE_BYTES)
            found += self._map[end:step].count(b"\n")
            end = step
        lines = self._map[at:end].split(b"\n", rows)
        text = b"\n".join(lines[:rows])
        return text.decode("ascii").split(), at + len(text) + (len(text) > 0 and found > 0)
