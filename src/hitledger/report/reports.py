"""Reports over one ledger: ordered pages, searches and streams of all rows.

A report reads the ledger and never writes to it. Who must see this host's own hits posts its
journal first (`HitCounter.post_now`), as the endpoints do, or has what is pending added (`page`).

What costs how much: rows of all time or of one period are read where they stand, and a page
costs its rows at any depth. Several periods, a section or routes must be added up first (`.shelf`);
then the same holds. The first pages of several periods are found without that (`.union`). A
search reads down the order until its page is full or its time is up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Protocol

from hitledger import tree
from hitledger.entries import Totals
from hitledger.errors import QueryError
from hitledger.ledger import LedgerStore
from hitledger.periods import Retention
from hitledger.report.build import Recipe, TooLargeError
from hitledger.report.cursor import Place, Ranks, decode_cursor, encode_cursor
from hitledger.report.history import History, report_history
from hitledger.report.kept import KeptSections, has_children_kept, has_total_kept
from hitledger.report.merge import first_slices, merge, place_behind, stream, stream_by_part
from hitledger.report.page import ROUTES, SECTIONS, Page, Section
from hitledger.report.pending import OnlyPostingCanTellError, PendingHits, PendingSource
from hitledger.report.query import PATTERNS, ROUTE, Query
from hitledger.report.routes import with_lines
from hitledger.report.sections import ByDepth, ByPattern, Sections, read_patterns
from hitledger.report.shelf import Order, Shelf
from hitledger.report.single import UrlReport, report_url
from hitledger.report.snapshot import Snapshot
from hitledger.report.source import Flat, LiveSource, Source
from hitledger.report.union import TooDeepError, UnionSource
from hitledger.report.window import Window
from hitledger.settings import Settings

MOST_PICKED_FROM = 200_000
"""Rows that are looked through for a page of a section: about 0.2 s."""
SEARCH_SECONDS = 2.0
"""How long a search looks before it says how far it came."""
Start = tuple[Place | None, Ranks]
"""Where a page begins: a place and the ranks that it had, as a cursor has them."""
TOP: Start = (None, ())


class Journalled(Protocol):
    """A host whose own hits a report must show; `HitCounter` is one. Both methods are for any thread."""

    def pending(self) -> PendingHits | None:
        """Return what is journalled and not posted; None where only posting can tell."""

    def post_now(self) -> None:
        """Post it. Raises LedgerError, JournalError."""


@dataclass(frozen=True)
class Opened:
    """A query whose rows can be read: where they are, and a page with all but rows."""

    query: Query
    source: Source
    frame: Page


class Reports:
    """What readers may ask of a ledger."""

    def __init__(
        self,
        store: LedgerStore,
        settings: Settings,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        directory: Path | None = None,
        *,
        apart: bool = False,
    ) -> None:
        """Reports that must be added up are kept in `directory`, in the data folder by default.

        With `apart`, large ones are added up in processes of their own: a web service wants that.

        Raises:
            SettingsError: the patterns file is not as it should be.
        """
        self._store = store
        self._now = now
        self._retention = Retention.of(settings)
        self._patterns: ByPattern = read_patterns(settings.patterns_file)
        self._most_urls = settings.max_urls
        self._shelf = Shelf(store, settings, directory or settings.data_dir / "reports", now, apart=apart)

    def page(self, query: Query | None = None, host: Journalled | None = None) -> Page:
        """Return one page, most requested first, equal counts by URL downwards.

        With a `host`, all that it has journalled is in it: what is pending is added where that
        can be done, and posted first elsewhere.

        Raises:
            QueryError: the cursor is not of this query and ledger, or it asks for too much.
            NotKeptError: counts of that time are not kept.
            ReportBusyError: it is still being added up.
            LedgerUnavailableError: the ledger cannot be reached.
        """
        query, window = self._pinned(query or Query())
        is_live = _is_live(query, window) and not query.search
        pending = host.pending() if host and is_live else None
        if host and not pending:
            host.post_now()
        start = decode_cursor(query.cursor, self._subject(query)) if query.cursor is not None else TOP
        if not is_live:
            return self._cut_off(self._added_up_page(query, window, start[0]), query)
        page = self._pending_page(query, window, start, pending) if pending else None
        if page is None:
            if host and pending:
                host.post_now()
            page = self._live_page(query, window, start)
        return page

    def url(self, url: str, by: str, query: Query) -> UrlReport:
        """Return one URL's total, rank and series by a kind of period, between the query's times.

        Raises:
            QueryError, NotKeptError, LedgerUnavailableError: as `report_url`.
        """
        now = self._now()
        return report_url(self._store, self._retention, url, by, _times(query, now), now)

    def history(self, by: str, query: Query) -> History:
        """Return all requests by a kind of period, between the query's times. Raises as `report_history`."""
        now = self._now()
        return report_history(self._store, self._retention, by, _times(query, now), now)

    def rows(self, query: Query, behind: Place | None = None, *, in_order: bool = True) -> Iterator[Flat]:
        """Yield all rows of a query behind a place, flat and in pieces, whatever its limit and cursor.

        Without an order, rows come as they are quickest to read. Among routes stand the lines beside
        them, so that all of it adds up to all requests. Raises like `page`.
        """
        with self.opened(query) as found:
            if query.columns == ROUTES:
                yield from with_lines(stream(found.source, behind), found.frame.other, behind)
                return
            pieces = (stream if in_order else stream_by_part)(found.source, behind)
            for flat in pieces:
                kept = _containing(flat, query.search) if query.search else flat
                if kept:
                    yield kept

    @contextmanager
    def opened(self, query: Query) -> Iterator[Opened]:
        """Open a query for reading its rows; raises like `page`."""
        query, window = self._pinned(query)
        if _is_live(query, window):
            source = LiveSource(self._store, window.periods[0] if window.periods else None)
            yield Opened(query, source, _with_totals(self._frame(query, window), source.totals()))
        else:
            with self._opened(query, window, self._order(query, window)) as found:
                yield found

    @contextmanager
    def _opened(self, query: Query, window: Window, order: Order) -> Iterator[Opened]:
        try:
            with self._shelf.snapshot(order) as (snapshot, as_of):
                frame = replace(self._frame(query, window), as_of=as_of)
                yield Opened(query, snapshot, _with_head(frame, query, snapshot))
        except TooLargeError as error:
            parameter = "from" if query.start is not None else "prefix" if query.prefix else "group"
            raise QueryError(parameter, f"asks for too much. {error.message}") from None

    def _order(self, query: Query, window: Window) -> Order:
        name = replace(query, search="").subject
        if query.group == PATTERNS:
            name += f" {self._patterns.digest}"
        generations: tuple[str, ...] = ()
        if _is_under(query) and not window.periods and has_children_kept(query.prefix):
            generations = tuple(tree.generations(self._store) or ())
        recipe = Recipe(
            window.periods, query.prefix.encode(), self._sections(query), generations, routes=query.group == ROUTE
        )
        return self._shelf.order(name, recipe)

    def _frame(self, query: Query, window: Window) -> Page:
        """Return a page without rows and totals."""
        label = query.period if query.start is None else "range"
        return Page(self._now(), 0, None, {}, [], query.columns, period=label, start=window.start, end=window.end)

    def _pinned(self, query: Query) -> tuple[Query, Window]:
        window = query.window(self._retention, self._now())
        return query.pinned(window), window

    def _subject(self, query: Query) -> str:
        return f"{self._store.identity.id} {query.subject}"

    def _sections(self, query: Query) -> Sections | None:
        if query.group == PATTERNS:
            if not self._patterns.names:
                raise QueryError("group", "needs patterns, and the settings name none (HITLEDGER_PATTERNS_FILE).")
            return self._patterns
        return ByDepth(int(query.group)) if query.columns == SECTIONS and query.group else None

    def _pending_page(self, query: Query, window: Window, start: Start, pending: PendingHits) -> Page | None:
        """Return a page to which pending hits are added; None where they must be posted first."""
        period = window.periods[0] if window.periods else None
        try:
            return self._page_of(PendingSource(self._store, pending, self._most_urls, period), query, window, start)
        except OnlyPostingCanTellError:
            return None

    def _live_page(self, query: Query, window: Window, start: Start) -> Page:
        """Return a page that is read where it stands."""
        period = window.periods[0] if window.periods else None
        return self._page_of(LiveSource(self._store, period), query, window, start)

    def _page_of(self, source: LiveSource, query: Query, window: Window, start: Start) -> Page:
        """Return a page, totals and rows in one round trip; its cursor remembers how far each shard was read."""
        slices = first_slices(source.parts, start[0], query.limit + 1, start[1])
        totals, answers = source.read_with_totals(slices)
        flat, cursor = merge(source, slices, answers, query.limit + 1), None
        if len(flat) > 2 * query.limit:
            flat = flat[: 2 * query.limit]
            place = place_behind(flat)
            cursor = encode_cursor(place, self._subject(query), source.ranks_behind(place))
        return _with_totals(replace(self._frame(query, window), flat=flat, cursor=cursor), totals)

    def _cut_off(self, page: Page, query: Query) -> Page:
        """Return a page without the row that only told that there is another page."""
        shown = page.flat[: page.width * query.limit]
        if len(shown) == len(page.flat) and page.complete:
            return page
        # A search that ran out of time has its place in `cursor` already.
        place = page.cursor if not page.complete else None
        cursor = place or encode_cursor(place_behind(shown, page.width), self._subject(query))
        return replace(page, flat=shown, cursor=cursor)

    def _added_up_page(self, query: Query, window: Window, behind: Place | None) -> Page:
        """Return a page of what must be added up first, or the first pages of it while that is done."""
        if page := self._kept_prefix_page(query, window, behind):
            return page
        order = self._order(query, window)
        if not query.is_derived and not query.search and not self._shelf.is_quick(order):
            page = self._top_page(query, window, behind, order.totals)
            self._shelf.prepare(order)
            if page:
                return page
        with self._opened(query, window, order) as found:
            if not query.search:
                return self._page(found, behind)
            with self._shelf.turns.turn():
                return self._search(found, behind)

    def _top_page(self, query: Query, window: Window, behind: Place | None, totals: Totals) -> Page | None:
        """Return a page found from the top of several periods; None where it is too deep for that."""
        source, count = UnionSource(self._store, window.periods), query.limit + 1
        slices = first_slices(source.parts, behind, count)
        try:
            with self._shelf.turns.turn():
                flat = merge(source, slices, source.read(slices), count)
        except TooDeepError:
            return None
        # How many different URLs there are is known only once all is added up.
        return replace(_with_totals(self._frame(query, window), totals), flat=flat, total_urls=None)

    def _kept_prefix_page(self, query: Query, window: Window, behind: Place | None) -> Page | None:
        """Return a page of the URLs of a section whose total is kept, picked out of the order of all.

        None where nothing is kept, or where the section has so small a part that this would take long.
        """
        if query.group is not None or query.search or window.periods or not has_total_kept(query.prefix):
            return None
        generations = tree.generations(self._store)
        if generations is None:
            return None
        source, count = LiveSource(self._store), query.limit + 1
        section, totals = KeptSections(self._store, generations).total(query.prefix), source.totals()
        if section.urls * MOST_PICKED_FROM < count * totals.urls:
            return None
        picked: Flat = []
        looked_at = 0
        for flat in stream(source, behind):
            picked += _beginning(flat, query.prefix)
            looked_at += len(flat) // 2
            if len(picked) >= 2 * count:
                break
            if looked_at > MOST_PICKED_FROM:
                return None
        return replace(_with_totals(self._frame(query, window), totals), flat=picked, section=section)

    def _page(self, found: Opened, behind: Place | None) -> Page:
        source, count = found.source, found.query.limit + 1
        slices = first_slices(source.parts, behind, count)
        return replace(found.frame, flat=merge(source, slices, source.read(slices), count))

    def _search(self, found: Opened, behind: Place | None) -> Page:
        """Read down the order until there is a page of URLs that contain the text, or time is up."""
        until = monotonic() + SEARCH_SECONDS
        matches: Flat = []
        for flat in stream(found.source, behind):
            matches += _containing(flat, found.query.search)
            if len(matches) > 2 * found.query.limit:
                break
            if monotonic() >= until:
                cursor = encode_cursor(place_behind(flat), self._subject(found.query))
                return replace(found.frame, flat=matches, complete=False, cursor=cursor)
        return replace(found.frame, flat=matches)


def _times(query: Query, now: datetime) -> tuple[datetime, datetime] | None:
    return query.times(now) if query.start is not None else None


def _containing(flat: Flat, text: str) -> Flat:
    return [each for url, hits in zip(flat[::2], flat[1::2], strict=True) if text in url for each in (url, hits)]


def _beginning(flat: Flat, prefix: str) -> Flat:
    return [
        each for url, hits in zip(flat[::2], flat[1::2], strict=True) if url.startswith(prefix) for each in (url, hits)
    ]


def _is_under(query: Query) -> bool:
    """Tell whether a query asks for the children of a section."""
    return query.prefix.endswith("/") and query.group == query.prefix.count("/")


def _is_live(query: Query, window: Window) -> bool:
    """Tell whether rows stand in the ledger as they are asked for."""
    return not query.is_derived and len(window.periods) <= 1


def _with_totals(frame: Page, totals: Totals) -> Page:
    return replace(frame, total_requests=totals.requests, total_urls=totals.urls, other=totals.lines)


def _with_head(frame: Page, query: Query, snapshot: Snapshot) -> Page:
    head = snapshot.head
    return replace(
        frame,
        total_requests=head.total_requests,
        total_urls=head.total_urls,
        other=head.other,
        section=Section(query.prefix, head.requests, head.urls) if query.prefix else None,
        total_sections=head.rows if query.columns == SECTIONS else None,
        total_routes=head.rows if query.columns == ROUTES else None,
    )
