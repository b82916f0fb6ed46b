"""What a host has journalled and not posted yet, for readers who need not wait until it is.

Posting waits for the disk of the ledger's server. A reader can do without: it reads counts and
watermarks at one moment and adds what the journal holds behind these watermarks itself.

Guarantee: `Pending.hits` holds each hit once that was journalled before it was made and is not
in the counts read beside the watermarks, whoever posts meanwhile; or it says that only posting
can tell: for a ledger that fell back, for files that are new, foreign, damaged or far behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from hitledger.entries import Hits, Watermark
from hitledger.follower import Follower, ShardProgress

MOST_BYTES = 64 * 1024
"""More than this, about 2,000 hits, is better posted: the next reader has it easier then."""
MOST_FILES = 32


@dataclass(frozen=True)
class Tail:
    """The end of one journal file, from where its first shard stands; `shards` are as they stood then."""

    follower: Follower
    shards: tuple[ShardProgress, ...]
    start: int
    data: bytes
    added_up: dict[int, list[dict[int, Hits]] | None] = field(default_factory=dict)
    """What was added up already, by where it begins: mostly at one place for all shards."""

    @classmethod
    def of(cls, follower: Follower) -> Tail | None:
        """Read the end of a file that is followed; None where it cannot be told or is long."""
        shards = tuple(follower.shards)
        if not shards or follower.mismatch:
            return None
        start = min(shard.clean for shard in shards)
        data = follower.read(start, MOST_BYTES)
        return cls(follower, shards, start, data) if data is not None and len(data) < MOST_BYTES else None

    def hits(self, shard: int, mark: Watermark | None) -> dict[int, Hits] | None:
        """Return a shard's hits behind its watermark, by hour; None where only posting can tell."""
        progress = self.shards[shard]
        known = progress.mark.offset if progress.mark else 0
        if (mark.offset if mark else 0) < known:
            return None  # the ledger fell back
        # From `known` to `clean` there is nothing for this shard; from there on somebody else may have posted.
        start = max(progress.clean, mark.offset if mark else 0) - self.start
        if start not in self.added_up:
            self.added_up[start] = self._add_up(start)
        found = self.added_up[start]
        return None if found is None else found[shard]

    def _add_up(self, start: int) -> list[dict[int, Hits]] | None:
        """Return the hits behind a place, a table a shard; None where only posting can tell."""
        first, *records = self.data[start:].split(b"\n")
        if first:
            return None  # the watermark is another file's
        tally = self.follower.tally()
        if records and not tally.knows(records[-1]):
            records.pop()  # it is still being written
        tally.add(Counter(records))
        return None if tally.damaged else tally.hits


class Pending:
    """What is pending on a host; made by `Poster.pending`."""

    def __init__(self, tails: Sequence[Tail]) -> None:
        self._tails = tails
        self.journals = [tail.follower.name for tail in tails]
        """The journals whose watermarks `hits` takes, in this order."""

    def urls(self, shard: int) -> list[str]:
        """Return the shard's URLs that may have pending hits."""
        found: set[str] = set()
        for tail in self._tails:
            for hits in (tail.hits(shard, tail.shards[shard].mark) or {}).values():
                found |= hits.urls.keys()
        return sorted(found)

    def hits(self, shard: int, marks: Sequence[Watermark | None]) -> list[dict[int, Hits]] | None:
        """Return the shard's hits behind these watermarks, a table by hour for each journal.

        None where only posting can tell.
        """
        found = []
        for tail, mark in zip(self._tails, marks, strict=True):
            hits = tail.hits(shard, mark)
            if hits is None:
                return None
            found.append(hits)
        return found


def pending_of(followers: Sequence[Follower]) -> Pending | None:
    """Return what is pending in these files; None where only posting can tell."""
    if len(followers) > MOST_FILES:
        return None
    tails = []
    for follower in followers:
        tail = Tail.of(follower)
        if tail is None:
            return None
        tails.append(tail)
    return Pending(tails)
