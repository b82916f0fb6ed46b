"""What really happened: every hit that a journal file took, by place, kept apart from the code under test.

The oracle shares nothing with the code that it judges: which URL a path is counted under is
written out by hand, and a record is in a file because one `write` call of a hit took all of
it, at an offset that the model file system knows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import NamedTuple
from zlib import crc32

from tests.simulation.filesystem import Inode

TALLY = slice(192, 212)
"""Where a journal file's header counts lost hits."""

NOWHERE = 1 << 60

Cell = tuple[int, str, str]
"""Where a hit is counted: hour, "url", "line" or "route", and which."""


class Hit(NamedTuple):
    """What a request is noted as, and what it must be counted under; or several as one."""

    kind: bytes
    path: bytes
    is_line: bool
    name: str
    hits: int = 1
    route: str = ""

    def cells(self, hour: int) -> Counter[Cell]:
        """Return where it is counted, and how often."""
        found: Counter[Cell] = Counter({(hour, "line" if self.is_line else "url", self.name): self.hits})
        if self.route:
            found[hour, "route", self.route] = self.hits
        return found


def hits_in(cells: Counter[Cell]) -> int:
    """Return the hits of cells: those of routes are counted elsewhere, too."""
    return sum(hits for (_, kind, _), hits in cells.items() if kind != "route")


HITS = (
    Hit(b"h", b"/api/one/", False, "/api/one/"),
    Hit(b"h", b"/api/one", False, "/api/one"),
    Hit(b"h", b"/api/%2F", False, "/api/%252F"),
    Hit(b"h", b"/", False, "/"),
    Hit(b"h", b"", False, "/"),
    Hit(b"h", b"/a\nb", False, "/a%0Ab"),
    Hit(b"h", b"\n0000000000000000h/x", False, "%0A0000000000000000h/x"),
    Hit(b"h", b"/\x00", False, "/%00"),
    Hit(b"h", b"/\xff\xfe \"'", False, "/%FF%FE%20%22%27"),
    Hit(b"h", b"/(unmatched)", False, "/%28unmatched%29"),
    Hit(b"h", b"/api/" + b"long/" * 20, False, "/api/" + "long/" * 20),
    Hit(b"u", b"", True, "(unmatched)"),
    Hit(b"o", b"", True, "(oversized)"),
    Hit(b"h", b"/api/17", False, "/api/17", route="/api/<id>"),
    Hit(b"h", b"/api/\x00\n", False, "/api/%00%0A", 3, "/api/<id>"),
    Hit(b"h", b"/jobs/mail", False, "/jobs/mail", 1_000_000),
    Hit(b"u", b"", True, "(unmatched)", 7, "/<path:any>"),
)
"""Requests that the simulation makes; the first ones are the hot ones."""


def shard_of(name: str, shards: int) -> int:
    """Return the shard that a URL or line belongs to, as the ledger's format lays it down."""
    return crc32(name.encode("ascii")) % shards


class Record(NamedTuple):
    """One hit in a journal file: the bytes as they were written, from the line feed on."""

    start: int
    data: bytes
    shard: int
    cells: Counter[Cell]


class JournalLog:
    """All hits that one journal file took, oldest first."""

    def __init__(self, inode: Inode) -> None:
        self.inode = inode
        self.name = ""
        self.records: list[Record] = []
        """Those whose bytes are still as they were written."""
        self.starts: list[int] = []
        self.longest = 0
        """How long it ever was."""
        self.promised = 0
        """Up to which byte a power cut may take nothing."""
        self.doubtful = False
        """True once a sync failed: from then on nothing more is promised."""
        self.doubtful_from = NOWHERE
        """From which byte hits may stay uncounted: what a power cut took part of, and nobody promised."""
        self.excused = ""
        """Why hits in it may stay uncounted, where something beyond the promises happened to it."""
        self.most_told = 0
        """How many lost hits its header ever told of."""
        self.changed: list[Record] = []
        """Those of which somebody changed a byte: who had read them before may book them yet."""
        self.has_twin = False
        """True where another file has its name, on a copied disk: a batch of the one may begin within a record here."""
        self.told = 0
        """How many lost hits its header told of when it was deleted."""
        self.stubless = False
        """True once it was deleted from a disk without room for a stub."""
        self.spoilt = False
        """True once a record of it was lost on the disk."""

    def copy(self, inode: Inode) -> JournalLog:
        """Return the log of a copy of the file."""
        twin = JournalLog(inode)
        twin.name, twin.records, twin.starts = self.name, list(self.records), list(self.starts)
        twin.excused, twin.spoilt, twin.longest = self.excused, self.spoilt, self.longest
        twin.changed = list(self.changed)
        twin.most_told, twin.has_twin = self.most_told, self.has_twin
        return twin

    @property
    def lost(self) -> int:
        """Return the hits that the file's header says were lost."""
        digits, checksum = bytes(self.inode.data[TALLY][:12]), bytes(self.inode.data[TALLY][12:])
        return int(digits) if digits.isdigit() and checksum == b"%08x" % crc32(digits) else 0

    def add(self, record: Record) -> None:
        """Note a record that was just written."""
        self.records.append(record)
        self.starts.append(record.start)

    def expected(self, shard: int, low: int, high: int) -> Counter[Cell]:
        """Return what a batch over a range of the file must hold for a shard."""
        first, last = bisect_left(self.starts, low), bisect_left(self.starts, high)
        found: Counter[Cell] = Counter()
        for record in self.records[first:last]:
            if record.shard == shard:
                found.update(record.cells)
        return found

    def behind(self, shard: int, offset: int, end: int = NOWHERE) -> list[Record]:
        """Return the records of a shard from an offset on, up to another, that must not stay uncounted."""
        first, last = bisect_left(self.starts, offset), bisect_left(self.starts, min(end, self.doubtful_from))
        return [record for record in self.records[first:last] if record.shard == shard]

    def flipped(self, shard: int) -> Counter[Cell]:
        """Return what of a shard may be booked because it was read before a byte of it was changed."""
        return sum((record.cells for record in self.changed if record.shard == shard), Counter())

    def check(self, data: bytes | bytearray) -> list[Record]:
        """Drop the records whose bytes are not there any more, and return them."""
        gone = [each for each in self.records if data[each.start : each.start + len(each.data)] != each.data]
        if gone:
            self.spoilt = True
            dropped = {each.start for each in gone}
            self.records = [each for each in self.records if each.start not in dropped]
            self.starts = [each.start for each in self.records]
        return gone
