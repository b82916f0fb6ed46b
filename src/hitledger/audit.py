"""The audit: every hit received is posted, pending, refused or lost, and the books add up.

Two things are checked, on a live system, without holding anything up. Of the ledger, shard by
shard: the sum over the sorted set and the lines equals the shard's total, and that equals the
sum over the watermarks; routes add up, in each period too (`routeaudit`), and sections that it
keeps say the same as its URLs (`sectionaudit`). Of this host,
journal by journal: the records in the file, counted anew from its first byte, equal what its
watermarks say is posted and what is still to post.

Hits go on arriving meanwhile: a sorted set is read in chunks between two readings of its
total, and its sum must lie between them. `AuditReport.exact` tells whether they were equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hitledger.entries import Watermark
from hitledger.errors import JournalError
from hitledger.follower import Follower, UrlTable
from hitledger.host import Host
from hitledger.housekeeping import CLOSED_SUFFIX, read_stub
from hitledger.journal import SUFFIX
from hitledger.ledger import LedgerStore
from hitledger.periods import Retention
from hitledger.routeaudit import RoutesAudit, audit_routes
from hitledger.sectionaudit import SectionsAudit, audit_sections
from hitledger.settings import Settings

SCAN_ENTRIES = 1000
"""Entries asked for at a time: well under a millisecond of the server."""
MOST_TRIES = 3
QUARANTINED_SUFFIX = ".quarantined"


@dataclass(frozen=True)
class ShardAudit:
    """One shard's books. `in_sets` is the sum over its sorted set and its lines.

    `routed` is the total of hits whose route is known, `in_routes` the sum over the set of routes.
    """

    shard: int
    requests: int
    in_sets: int
    routed: int
    in_routes: int
    by_watermarks: int
    lost: int
    damaged: int
    exact: bool

    def differences(self) -> Iterator[str]:
        """Yield a line for each sum that does not agree."""
        if self.by_watermarks != self.requests:
            yield (
                f"shard {self.shard}: the total is {self.requests:,} and the watermarks add up to "
                f"{self.by_watermarks:,}: {self.requests - self.by_watermarks:+,}"
            )
        if self.in_sets != self.requests and self.exact:
            yield (
                f"shard {self.shard}: the total is {self.requests:,} and the URLs and lines add up to "
                f"{self.in_sets:,}: {self.in_sets - self.requests:+,}"
            )
        if (self.in_routes != self.routed and self.exact) or self.routed > self.requests:
            yield (
                f"shard {self.shard}: of {self.requests:,} hits {self.routed:,} have a route and the routes add up to "
                f"{self.in_routes:,}: {self.in_routes - self.routed:+,}"
            )


@dataclass(frozen=True)
class JournalAudit:
    """One journal file of this host. All in hits; `lost` are those its writer could not journal."""

    journal: str
    state: str
    received: int
    posted: int
    pending: int
    refused: int
    lost: int

    def differences(self) -> Iterator[str]:
        """Yield a line where received is not posted + pending + refused + lost."""
        difference = self.received - self.posted - self.pending - self.refused - self.lost
        if difference:
            yield f"journal {self.journal} ({self.state}): {difference:+,} hits that are neither posted nor pending"


@dataclass(frozen=True)
class AuditReport:
    """What the audit found; in balance where `differences` is empty."""

    ledger: str
    shards: list[ShardAudit]
    journals: list[JournalAudit]
    routes: list[RoutesAudit]
    sections: list[SectionsAudit]
    differences: list[str] = field(default_factory=list)

    @property
    def balance(self) -> dict[str, int]:
        """Received, posted, pending, refused and lost, over the ledger and this host's journal."""
        posted = sum(shard.requests for shard in self.shards)
        pending = sum(journal.pending for journal in self.journals)
        refused = sum(journal.refused for journal in self.journals)
        lost = sum(shard.lost + shard.damaged for shard in self.shards)
        received = posted + pending + refused + lost
        return {"received": received, "posted": posted, "pending": pending, "refused": refused, "lost": lost}

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain tables."""
        return {
            "ledger": self.ledger,
            "balance": self.balance,
            "differences": self.differences,
            "shards": [asdict(shard) for shard in self.shards],
            "journals": [asdict(journal) for journal in self.journals],
            "routes": [asdict(routes) for routes in self.routes],
            "sections": [asdict(sections) for sections in self.sections],
        }


def audit(settings: Settings, store: LedgerStore) -> AuditReport:
    """Audit the ledger and this host's journal. Raises LedgerError."""
    shards = [_audit_shard(store, shard) for shard in range(store.identity.shards)]
    journals = list(_audit_journals(settings, store))
    routes = audit_routes(store, Retention.of(settings), datetime.now(UTC))
    sections = audit_sections(store)
    parts = (shards, journals, routes, sections)
    differences = [line for part in parts for each in part for line in each.differences()]
    return AuditReport(store.identity.id, shards, journals, routes, sections, differences)


def _audit_shard(store: LedgerStore, shard: int) -> ShardAudit:
    for _ in range(MOST_TRIES):
        before = store.books(shard)
        in_sets = store.sum_of(shard, store.set_key(shard), SCAN_ENTRIES)
        in_routes = store.sum_of(shard, store.routes_key(shard), SCAN_ENTRIES)
        after = store.books(shard)
        fits = before.requests <= in_sets + after.lines and in_sets + before.lines <= after.requests
        fits = fits and before.routed <= in_routes <= after.routed
        quiet = before.requests == after.requests
        if quiet or fits:
            break
    return ShardAudit(
        shard=shard,
        requests=after.requests,
        in_sets=in_sets + after.lines,
        routed=after.routed,
        in_routes=in_routes,
        by_watermarks=after.by_watermarks,
        lost=after.lost,
        damaged=after.damaged,
        exact=quiet or not fits,
    )


def _audit_journals(settings: Settings, store: LedgerStore) -> Iterator[JournalAudit]:
    host = Host()
    urls = UrlTable(merge_trailing_slash=settings.merge_trailing_slash)
    for path, _ in host.files(settings.journal_dir, SUFFIX):
        try:
            yield _audit_file(store, path, urls, host)
        except FileNotFoundError:
            continue  # closed in the meantime
        except JournalError:
            yield JournalAudit(path.stem, "cannot be read", 0, 0, 0, 0, 0)
    for path, _ in host.files(settings.journal_dir, CLOSED_SUFFIX):
        yield _audit_stub(store, path, host)
    for path, _ in host.files(settings.journal_dir, QUARANTINED_SUFFIX):
        hits, _ = _count(path, [None], urls, host)
        yield JournalAudit(path.stem, "set aside", hits, 0, 0, hits, 0)


def _audit_file(store: LedgerStore, path: Path, urls: UrlTable, host: Host) -> JournalAudit:
    # The marks are read first: what is posted while the file is counted is pending here.
    marks = store.watermarks([path.stem])[path.stem]
    pending, end = _count(path, marks, urls, host)
    # As far as that and no further: hits go on arriving.
    received, _ = _count(path, [None] * len(marks), urls, host, end)
    posted = sum(mark.hits for mark in marks if mark)
    follower = Follower(path, urls, host)
    lost = follower.lost
    with follower.writer_gone() as gone:
        state = "closed by its writer" if gone else "in use"
    follower.close()
    return JournalAudit(path.stem, state, received + lost, posted, pending, 0, lost)


def _audit_stub(store: LedgerStore, path: Path, host: Host) -> JournalAudit:
    ends = read_stub(host, path)
    marks = store.watermarks([path.stem])[path.stem]
    received = sum(end.hits + end.lost for end in ends)
    posted = sum(mark.hits for mark in marks if mark)
    lost = sum(mark.lost for mark in marks if mark)
    return JournalAudit(path.stem, "deleted after its hold", received, posted, 0, 0, lost)


def _count(
    path: Path, marks: list[Watermark | None], urls: UrlTable, host: Host, before: int | None = None
) -> tuple[int, int]:
    """Count the good records of a file behind its watermarks; return the hits, and the byte behind the last one."""
    follower = Follower(path, urls, host, any_name=True)
    try:
        follower.look(marks)
        hits = 0
        with follower.writer_gone() as gone:
            while taken := follower.take(ended=gone, before=before):
                tables = [
                    table for shard, table in enumerate(taken.hits) if follower.shards[shard].clean == taken.start
                ]
                hits += sum(group.total for table in tables for group in table.values())
                follower.settle(taken, {})
        return hits, follower.reached
    finally:
        follower.close()
