"""The first page: how much is going on, and the hottest URLs, sections or routes of a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode

from hitledger.errors import QueryError
from hitledger.report import Page, Query
from hitledger.report.page import SECTIONS
from hitledger.web.addresses import (
    ROWS_SHOWN,
    chart_kind_of,
    crumbs_of,
    link_of,
    live_link,
    period_link,
    query_of,
    rank_of,
    until_of,
    url_link,
)
from hitledger.web.chart import is_within
from hitledger.web.desk import Desk
from hitledger.web.names import readable
from hitledger.web.rows import TableRow, percent, rows_of_page
from hitledger.web.shown import Shown
from hitledger.web.treemap import Tile, tiles_of

PERIODS = (("all", "All time"), ("hour", "This hour"), ("day", "Today"), ("month", "This month"))
KINDS_SHOWN = (("hour", "Hours"), ("day", "Days"), ("month", "Months"))
FEW_URLS = 3
"""Up to so many, a newcomer is told how to go on."""
PHONE_PIXELS = 330
"""How wide the map is on a narrow phone."""
NAME_PIXELS, COUNT_PIXELS, EDGE_PIXELS = 8, 7, 12
"""How wide one character of a name, or of a count, is, and what is left free beside it."""


@dataclass(frozen=True)
class Area:
    """A section in the map: its tile, its row and its name there; no row for all that is not among the rows."""

    tile: Tile
    row: TableRow | None
    name: str
    requests: int
    share: float

    @property
    def is_name_short(self) -> bool:
        """Tell whether the name fits in on a phone, too."""
        return self._fits(len(self.name) * NAME_PIXELS)

    @property
    def is_count_short(self) -> bool:
        """Tell whether the count does."""
        return self.is_name_short and self._fits(len(f"{self.requests:,}") * COUNT_PIXELS)

    def _fits(self, pixels: int) -> bool:
        return float(self.tile.width.rstrip("%")) / 100 * PHONE_PIXELS >= pixels + EDGE_PIXELS


def now_context(desk: Desk, texts: dict[str, str]) -> dict[str, Any]:
    """Return what the first page shows at an address."""
    look = desk.look()
    shown: Shown[Page]
    try:
        query, by = query_of(texts), chart_kind_of(texts)
        shown = look.read(query, lambda: desk.reports.page(query))
    except QueryError as error:
        query, by, shown = Query(limit=ROWS_SHOWN), "hour", Shown.refusal(error)
    page, rank = shown.report, rank_of(texts)
    rows = rows_of_page(page, rank, look.hours_of if _is_of_now(query) else _no_hours) if page else []
    typed = texts.get("search", "")
    return {
        # Where sections are, their map stands in the chart's place.
        **look.frame(by if query.columns != SECTIONS else None),
        "status": shown.status,
        "parts": ("overview.html", "rows.html") if not query.cursor else ("overview.html",),
        "live": live_link("/live/", texts),
        "shown": shown,
        "query": query,
        "by": by,
        "texts": texts,
        # As it was typed, unless that could turn the page's own text around.
        "typed": typed if typed.isprintable() else query.search,
        "until": until_of(query),
        "page": page,
        "rows": rows,
        "areas": _areas_of(page, rows, query.prefix) if page and not query.cursor else [],
        "crumbs": crumbs_of(query),
        "periods": PERIODS,
        "kinds": KINDS_SHOWN,
        "following": _following(query, page, rank),
        "exports": urlencode(query.rows_parameters),
        "days": _whole_days(page),
        "is_new": not shown.error and _is_new(query, page),
        "chart_link": lambda period: period_link(query, period),
        "link": link_of,
        "url_link": url_link,
        "is_within": is_within,
    }


def _whole_days(page: Page | None) -> tuple[datetime, datetime] | None:
    """Return the first and the last day of UTC that a page is about; None where it is no whole days."""
    if page is None or page.start is None or page.end is None:
        return None
    if any(each.astimezone(UTC).time() != time() for each in (page.start, page.end)):
        return None
    return page.start.astimezone(UTC), page.end.astimezone(UTC) - timedelta(days=1)


def _no_hours(urls: Sequence[str], now: datetime) -> dict[str, list[int]]:
    del urls, now
    return {}


def _is_of_now(query: Query) -> bool:
    return query.at is None and query.end is None


def _is_new(query: Query, page: Page | None) -> bool:
    return (
        page is not None and not query.rows_parameters and page.total_urls is not None and page.total_urls <= FEW_URLS
    )


def _areas_of(page: Page, rows: Sequence[TableRow], prefix: str) -> list[Area]:
    """Return the map of a section's parts; what the rows do not hold is one area, the last."""
    if page.columns != SECTIONS or len(rows) < 2:
        return []
    whole = page.section.requests if page.section else page.total_requests
    rest = max(0, whole - sum(row.requests for row in rows)) if page.cursor else 0
    named: list[TableRow | None] = list(rows)
    if rest:
        named.append(None)
    values = [row.requests if row else rest for row in named]
    order = sorted(range(len(values)), key=values.__getitem__, reverse=True)
    tiles = tiles_of([values[index] for index in order])
    return [
        Area(tile, named[index], _name_below(prefix, named[index]), values[index], percent(values[index], whole))
        for tile, index in zip(tiles, order, strict=False)
    ]


def _name_below(prefix: str, row: TableRow | None) -> str:
    if row is None:
        return "everything else"
    name, above = readable(row.name), readable(prefix)
    return name.removeprefix(above) or name


def _following(query: Query, page: Page | None, rank: int) -> str:
    if page is None or page.cursor is None:
        return ""
    following = {**query.parameters, "cursor": page.cursor, "rank": str(rank + len(page.flat) // page.width)}
    following.pop("limit", None)
    return "/?" + urlencode(following)
