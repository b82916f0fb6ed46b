"""A page of a report, and its rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

COLUMNS = {2: ("url", "requests"), 3: ("section", "requests", "urls")}
"""What the texts of a row are, by how many they are."""
ROW_JSON = {2: '{"url":"%s","requests":%s}', 3: '{"section":"%s","requests":%s,"urls":%s}'}
"""URLs are ASCII without quotes or backslashes (see `hitledger.paths`), so nothing needs escaping."""


class Row(NamedTuple):
    """One URL and how often it was requested."""

    url: str
    requests: int


class SectionRow(NamedTuple):
    """One section, how often its URLs were requested, and how many they are."""

    section: str
    requests: int
    urls: int


@dataclass(frozen=True)
class Section:
    """All URLs that begin with a prefix: their requests, and how many they are."""

    prefix: str
    requests: int
    urls: int


@dataclass(frozen=True)
class Page:
    """Rows in order, and what stands beside them.

    `flat` holds the rows as the ledger tells them, `width` texts each: URL and requests, or
    section, requests and URLs. `cursor` continues behind the last row; None on the last page.
    `start` and `end` are None for all time. `total_urls` is None where nobody knows it yet:
    several periods are still being added up, or only one section of them was. `complete` is
    False where a search ran out of time; it goes on at `cursor`.
    """

    as_of: datetime
    total_requests: int
    total_urls: int | None
    other: dict[str, int]
    flat: list[str] = field(repr=False)
    width: int = 2
    cursor: str | None = None
    period: str = "all"
    start: datetime | None = None
    end: datetime | None = None
    section: Section | None = None
    total_sections: int | None = None
    complete: bool = True

    @property
    def rows(self) -> list[Row]:
        """The rows of a report over URLs."""
        assert self.width == 2
        return rows_of(self.flat)

    @property
    def sections(self) -> list[SectionRow]:
        """The rows of a report over sections."""
        assert self.width == 3
        return sections_of(self.flat)

    @property
    def rows_json(self) -> str:
        """The rows as a JSON array."""
        count = len(self.flat) // self.width
        return "[" + ",".join([ROW_JSON[self.width]] * count) % tuple(self.flat) + "]"


def rows_of(flat: list[str]) -> list[Row]:
    """Return flat rows as URLs and numbers."""
    return list(map(Row, flat[::2], map(int, flat[1::2])))


def sections_of(flat: list[str]) -> list[SectionRow]:
    """Return flat rows as sections and numbers."""
    return list(map(SectionRow, flat[::3], map(int, flat[1::3]), map(int, flat[2::3])))


def rfc3339(moment: datetime) -> str:
    """Return a moment as RFC 3339 text in UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
