"""What goes into the ledger and comes out of it: watermarks, batches, outcomes, totals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from hitledger.errors import LedgerError
from hitledger.journal import HEADER_BYTES

MOST_URLS_A_CALL = 1000
"""Distinct URLs of usual length in one script call: about 7 ms of a single-threaded server."""
LIKE_A_URL_BYTES = 768
"""So many bytes of names cost a call as much as one more URL."""
SECTION_LIKE_URLS = 1.5
"""As many URLs as one section costs a call whose shard keeps sections ..."""
CHILD_LIKE_URLS = 0.2
"""... and as one URL in one section; all three from `python -m bench sections`."""
MOST_ROUTES = 10_000
"""Distinct routes of a shard; hits on others go to the route (overflow). Applications have a few hundred."""

MOST_SECTIONS = 8
"""Sections of a URL whose children are kept, the root among them, where a ledger keeps sections; `lua/post.lua` and
`lua/fill.lua` know this number, too."""


@dataclass(frozen=True)
class Part:
    """How far a range is posted that is too large for one call and begins at its watermark's offset.

    `end` is the range's end, `entries` how many of its entries are posted, in their order, and
    `digest` the CRC-32 of all of them. Entries of hours before `whole_days_before` are by day.
    """

    end: int
    entries: int
    digest: int
    whole_days_before: int


@dataclass(frozen=True)
class Watermark:
    """How far one journal file is posted to one shard.

    `offset` is in bytes of the file; `hits` counts those that belong to the shard; `crc`
    is the CRC-32 of the file's bytes from its header to `offset`, by which a file that was
    cloned or rolled back is noticed. `lost` and `damaged` are the file's hits that could
    not be journalled and its records that cannot be read; shard 0 keeps them. `part` is of a log
    that is ingested: its ranges are large.
    """

    offset: int = HEADER_BYTES
    hits: int = 0
    crc: int = 0
    lost: int = 0
    damaged: int = 0
    part: Part | None = None

    def encode(self) -> str:
        """Return the text that stands in the watermarks hash."""
        part = self.part
        behind = f" {part.end} {part.entries} {part.digest:08x} {part.whole_days_before}" if part else ""
        return f"{self.offset} {self.hits} {self.crc:08x} {self.lost} {self.damaged}{behind}"

    @classmethod
    def decode(cls, text: str) -> Watermark:
        """Read what `encode` wrote.

        Raises:
            LedgerError: it is no watermark.
        """
        try:
            offset, hits, crc, lost, damaged, *rest = text.split(" ")
            part = None
            if rest:
                end, entries, digest, whole_days_before = rest
                part = Part(int(end), int(entries), int(digest, 16), int(whole_days_before))
            return cls(int(offset), int(hits), int(crc, 16), int(lost), int(damaged), part)
        except ValueError:
            raise LedgerError(f"The ledger holds a watermark that cannot be read: {text[:80]!r}.") from None


@dataclass
class Hits:
    """Hits that fell into the same periods: by URL and by line, and those of them whose route is known by route."""

    urls: dict[str, int] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    routes: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All hits together."""
        return sum(self.urls.values()) + sum(self.lines.values())


@dataclass(frozen=True)
class ShardBooks:
    """Both sides of one shard's books, read at one moment; all in hits but `damaged`, in records.

    `requests` is the shard's total, `lines` what of it is on lines, `routed` what of it has a
    route; `by_watermarks` is what the watermarks say was posted since the ledger was last reset.
    """

    requests: int
    lines: int
    routed: int
    by_watermarks: int
    lost: int
    damaged: int
    before_lost: int
    before_damaged: int


@dataclass(frozen=True)
class Batch:
    """What one range of a journal file holds for one shard.

    `expected` is None for a journal that the shard has not seen. `hits` is keyed by hour,
    in hours since 1970.
    """

    shard: int
    journal: str
    expected: Watermark | None
    wanted: Watermark
    hits: Mapping[int, Hits]


@dataclass(frozen=True)
class Outcome:
    """What became of a batch: the script's word, and the watermark that the shard has now.

    `error` is set where the shard could not be asked; the outcome is then unknown, which the
    next look at the watermark settles.
    """

    word: str
    watermark: Watermark | None = None
    error: LedgerError | None = None

    @property
    def done(self) -> bool:
        """True where the batch is in the ledger, from this call or an earlier one."""
        return self.word in ("posted", "duplicate")


@dataclass(frozen=True)
class LedgerIdentity:
    """Which ledger this is: 128 random bits as hex, its shards, and when it was made (unix seconds)."""

    id: str
    shards: int
    made: int


@dataclass(frozen=True)
class Totals:
    """Requests of a period over all shards, those on each line included, and its distinct URLs."""

    requests: int
    urls: int
    lines: dict[str, int]

    @classmethod
    def of(cls, answers: Sequence[Any]) -> Totals:
        """Add up what `LedgerStore.totals_calls` asks for: totals hash and number of URLs, by turns."""
        lines: dict[str, int] = {}
        requests = 0
        for table in answers[::2]:
            requests += int(table.get("requests", 0))
            for name, count in table.items():
                if name.startswith("("):
                    lines[name] = lines.get(name, 0) + int(count)
        return cls(requests, sum(answers[1::2]), lines)


def path_of(url: str) -> list[str]:
    """Return the sections that a URL lies in, shortest first: the root, which is "", then "/", "/api/" ...

    One more than `MOST_SECTIONS` of them at most. `lua/post.lua` has the same.
    """
    path, at = [""], url.find("/")
    while 0 <= at < len(url) - 1 and len(path) <= MOST_SECTIONS:
        path.append(url[: at + 1])
        at = url.find("/", at + 1)
    return path


class CallLoad:
    """How much one script call asks of its server, in URLs of usual length: `MOST_URLS_A_CALL` of them at most."""

    def __init__(self, *, with_sections: bool) -> None:
        self.urls = 0.0
        self._sections: set[str] | None = set() if with_sections else None

    def add(self, url: str) -> None:
        """Add a URL that the call has not yet."""
        self.urls += 1 + len(url) / LIKE_A_URL_BYTES
        if self._sections is None:
            return
        path = path_of(url)[:MOST_SECTIONS]
        new = set(path) - self._sections
        self._sections |= new
        self.urls += CHILD_LIKE_URLS * len(path) + SECTION_LIKE_URLS * len(new) + sum(map(len, new)) / LIKE_A_URL_BYTES


def fitting(urls: Iterable[str], *, with_sections: bool) -> int:
    """Return how many URLs, from the first on, fit into one call: one at least, where there is any."""
    load, number = CallLoad(with_sections=with_sections), 0
    for url in urls:
        load.add(url)
        if number and load.urls > MOST_URLS_A_CALL:
            break
        number += 1
    return number


def shard_of(url: str, shards: int) -> int:
    """Return the shard that a URL or a line belongs to: CRC-32 modulo the number of shards."""
    return crc32(url.encode()) % shards


def most_urls_of(shard: int, shards: int, most: int) -> int:
    """Return one shard's part of the cap on distinct URLs; the parts add up to the cap."""
    return most // shards + (shard < most % shards)
