"""A page of a report, and its rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

FLAT_ROW = '{"url":"%s","requests":%s}'
"""URLs are ASCII without quotes or backslashes (see `hitledger.paths`), so nothing needs escaping."""


class Row(NamedTuple):
    """One URL and how often it was requested."""

    url: str
    requests: int


@dataclass(frozen=True)
class Page:
    """Rows in order, and what stands beside them.

    `flat` holds the rows as the ledger tells them: URL, requests, URL, requests, ... in texts.
    `cursor` continues behind the last row; None on the last page.
    """

    as_of: datetime
    total_requests: int
    total_urls: int
    other: dict[str, int]
    flat: list[str] = field(repr=False)
    cursor: str | None = None
    period: str = "all"

    @property
    def rows(self) -> list[Row]:
        """The rows."""
        return [Row(url, int(hits)) for url, hits in zip(self.flat[::2], self.flat[1::2], strict=True)]

    @property
    def rows_json(self) -> str:
        """The rows as a JSON array."""
        count = len(self.flat) // 2
        return "[" + ",".join([FLAT_ROW] * count) % tuple(self.flat) + "]"


def rfc3339(moment: datetime) -> str:
    """Return a moment as RFC 3339 text in UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
