"""Reports over one ledger: ordered pages, whatever their source.

A report reads the ledger and never writes to it. Who must see this host's own hits posts its
journal first (`HitCounter.post_now`); the endpoints do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from hitledger.ledger import LedgerStore, Totals
from hitledger.report.cursor import Place, decode_cursor, encode_cursor
from hitledger.report.merge import first_slices, merge, place_behind
from hitledger.report.page import Page
from hitledger.report.query import Query
from hitledger.report.source import Flat, LiveSource
from hitledger.settings import Settings


class Reports:
    """What readers may ask of a ledger."""

    def __init__(
        self, store: LedgerStore, settings: Settings, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._store = store
        self._settings = settings
        self._now = now

    def page(self, query: Query | None = None) -> Page:
        """Return one page, most requested URLs first, equal counts by URL downwards.

        Raises:
            QueryError: the cursor is not of this query and ledger.
            LedgerUnavailableError: the ledger cannot be reached.
        """
        query = query or Query()
        behind = decode_cursor(query.cursor, self._subject(query)) if query.cursor is not None else None
        totals, flat = self._live(behind, query.limit + 1)
        page = Page(self._now(), totals.requests, totals.urls, totals.lines, flat)
        if len(flat) <= 2 * query.limit:
            return page
        shown = flat[: 2 * query.limit]
        return replace(page, flat=shown, cursor=encode_cursor(place_behind(shown), self._subject(query)))

    def _subject(self, query: Query) -> str:
        return f"{self._store.identity.id} {query.subject}"

    def _live(self, behind: Place | None, count: int) -> tuple[Totals, Flat]:
        source = LiveSource(self._store)
        slices = first_slices(source.parts, behind, count)
        totals, answers = source.read_with_totals(slices)
        return totals, merge(source, slices, answers, count)
