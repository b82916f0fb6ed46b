"""A page of a report, and its rows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from hitledger.errors import QueryError
from hitledger.paths import LINES, NO_ROUTE, OVERFLOW

Columns = tuple[str, ...]
"""What the texts of a row are."""
URLS: Columns = ("url", "requests")
SECTIONS: Columns = ("section", "requests", "urls")
ROUTES: Columns = ("route", "requests")
ROW_JSON = {
    URLS: '{"url":"%s","requests":%s}',
    SECTIONS: '{"section":"%s","requests":%s,"urls":%s}',
    ROUTES: '{"route":%s,"requests":%s}',
}
"""URLs are ASCII without quotes or backslashes (see `hitledger.paths`): only routes need escaping."""


class Row(NamedTuple):
    """One URL and how often it was requested."""

    url: str
    requests: int


class SectionRow(NamedTuple):
    """One section, how often its URLs were requested, and how many they are."""

    section: str
    requests: int
    urls: int


class RouteRow(NamedTuple):
    """One route, and how often it was requested."""

    route: str
    requests: int


@dataclass(frozen=True)
class Section:
    """All URLs that begin with a prefix: their requests, and how many they are."""

    prefix: str
    requests: int
    urls: int


@dataclass(frozen=True)
class Page:
    """Rows in order, and what stands beside them.

    `flat` holds the rows as the ledger tells them, a text for each of the `columns`. `cursor`
    continues behind the last row; None on the last page. `other` has the requests on no row.
    `start` and `end` are None for all time. `total_urls` is None where nobody knows it yet:
    several periods are still being added up, or only one section of them was. `complete` is
    False where a search ran out of time; it goes on at `cursor`.
    """

    as_of: datetime
    total_requests: int
    total_urls: int | None
    other: dict[str, int]
    flat: list[str] = field(repr=False)
    columns: Columns = URLS
    cursor: str | None = None
    period: str = "all"
    start: datetime | None = None
    end: datetime | None = None
    section: Section | None = None
    total_sections: int | None = None
    total_routes: int | None = None
    complete: bool = True

    @property
    def rows(self) -> list[Row]:
        """The rows of a report over URLs."""
        return rows_of(self._demand(URLS))

    @property
    def sections(self) -> list[SectionRow]:
        """The rows of a report over sections."""
        return sections_of(self._demand(SECTIONS))

    @property
    def routes(self) -> list[RouteRow]:
        """The rows of a report over routes."""
        return routes_of(self._demand(ROUTES))

    def _demand(self, columns: Columns) -> list[str]:
        if self.columns != columns:
            name = "rows" if self.columns == URLS else self.named
            raise QueryError("group", f"asks for {self.named}: `Page.{name}` has them.")
        return self.flat

    @property
    def width(self) -> int:
        """How many texts a row has."""
        return len(self.columns)

    @property
    def lines(self) -> dict[str, int]:
        """What is counted on no row, each line though it be zero."""
        names = (NO_ROUTE, OVERFLOW) if self.columns == ROUTES else LINES
        return {line: self.other.get(line, 0) for line in names}

    @property
    def head(self) -> dict[str, Any]:
        """What JSON says before the rows, but when: what does not go with the query is left out."""
        given = {
            "section": self.section and vars(self.section),
            "total_sections": self.total_sections,
            "total_routes": self.total_routes,
            "complete": None if self.complete else False,
        }
        return {
            "period": self.period,
            "total_requests": self.total_requests,
            "total_urls": self.total_urls,
            "other": self.lines,
            **{name: value for name, value in given.items() if value is not None},
        }

    @property
    def named(self) -> str:
        """What the rows are called in JSON."""
        return f"{self.columns[0]}s"

    @property
    def rows_json(self) -> str:
        """The rows as a JSON array."""
        return f"[{rows_json(self.flat, self.columns, ',')}]"


def rows_json(flat: list[str], columns: Columns, between: str) -> str:
    """Return flat rows as JSON objects, with a text between each two."""
    if columns == ROUTES:
        flat = [text for route, hits in zip(flat[::2], flat[1::2], strict=True) for text in (json.dumps(route), hits)]
    return between.join([ROW_JSON[columns]] * (len(flat) // len(columns))) % tuple(flat)


def rows_of(flat: list[str]) -> list[Row]:
    """Return flat rows as URLs and numbers."""
    return list(map(Row, flat[::2], map(int, flat[1::2])))


def sections_of(flat: list[str]) -> list[SectionRow]:
    """Return flat rows as sections and numbers."""
    return list(map(SectionRow, flat[::3], map(int, flat[1::3]), map(int, flat[2::3])))


def routes_of(flat: list[str]) -> list[RouteRow]:
    """Return flat rows as routes and numbers."""
    return list(map(RouteRow, flat[::2], map(int, flat[1::2])))


def rfc3339(moment: datetime) -> str:
    """Return a moment as RFC 3339 text in UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
