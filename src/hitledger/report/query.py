"""What a reader asks for, checked: the parameters that every kind of report shares.

`Query.read` looks at the form of each parameter and at how they go together; what depends on
the time of asking, `Query.window` decides.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from urllib.parse import quote_from_bytes, unquote_to_bytes, urlencode

from hitledger.errors import QueryError
from hitledger.periods import KINDS, Retention
from hitledger.report.page import ROUTES, SECTIONS, URLS, Columns
from hitledger.report.window import (
    ALL_TIME,
    Window,
    check_whole_hours,
    read_moment,
    read_zone,
    window_at,
    window_between,
)

DEFAULT_LIMIT = 1000
MOST_LIMIT = 10_000
DEEPEST_GROUP = 64
PATTERNS = "patterns"
"""The value of `group` that adds URLs up under the patterns of the settings."""
ROUTE = "route"
"""The value of `group` that has requests by the route that their framework matched."""
MOST_TEXT_BYTES = 8192

ROWS = ("period", "at", "from", "to", "tz", "prefix", "under", "group", "search")
"""The parameters that choose rows."""
PAGE = ("limit", "cursor")
"""The parameters that choose a page of them."""


@dataclass(frozen=True)
class Query:
    """One request for rows in order.

    `limit` and `cursor` choose the page; everything else chooses the rows. Moments are texts
    as RFC 3339 writes them, local to `tz` where they have no offset; `start` and `end` are the
    parameters `from` and `to`. `prefix` is the canonical text that URLs begin with. `group` is
    the number of segments that sections have, "patterns" or "route".
    """

    period: str = "all"
    at: str | None = None
    start: str | None = None
    end: str | None = None
    tz: str = "UTC"
    prefix: str = ""
    group: int | str | None = None
    search: str = ""
    limit: int = DEFAULT_LIMIT
    cursor: str | None = None

    @classmethod
    def read(cls, texts: Mapping[str, str], allowed: Collection[str] = ROWS + PAGE) -> Query:
        """Read a query from its parameters, as a URL or a command line gives them.

        Raises:
            QueryError: a parameter is unknown, its value is not allowed, or it does not go
                together with another.
        """
        refuse_unknown(texts, allowed)
        _refuse_together(texts)
        query = cls(
            period=_read_period(texts),
            at=texts.get("at"),
            start=texts.get("from"),
            end=texts.get("to"),
            tz=texts.get("tz", "UTC"),
            prefix=_read_prefix(texts),
            group=_read_group(texts),
            search=canonical_text("search", texts["search"]) if "search" in texts else "",
            limit=read_limit(texts.get("limit")),
            cursor=texts.get("cursor"),
        )
        query._check_times()
        return query

    @property
    def zone(self) -> tzinfo:
        """The time zone."""
        return read_zone(self.tz)

    @property
    def is_derived(self) -> bool:
        """True where rows must be added up or picked out, whatever the time they cover."""
        return bool(self.prefix) or self.group is not None

    @property
    def columns(self) -> Columns:
        """What the texts of a row are (see `Page.flat`)."""
        return URLS if self.group is None else ROUTES if self.group == ROUTE else SECTIONS

    @property
    def rows_parameters(self) -> dict[str, str]:
        """The parameters that ask for the same rows."""
        given = {
            "period": self.period if self.period != "all" and self.start is None else None,
            "at": self.at,
            "from": self.start,
            "to": self.end,
            "tz": self.tz if self.tz != "UTC" else None,
            "prefix": self.prefix or None,
            "group": None if self.group is None else str(self.group),
            "search": self.search or None,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters that ask for the same rows in pages of the same size, without the cursor."""
        return self.rows_parameters | ({} if self.limit == DEFAULT_LIMIT else {"limit": str(self.limit)})

    @property
    def subject(self) -> str:
        """The rows that are asked for, whatever the page: what a cursor is bound to."""
        return urlencode(sorted(self.rows_parameters.items()))

    def window(self, retention: Retention, now: datetime) -> Window:
        """Return the time that is covered, as periods that the ledger has.

        Raises:
            QueryError: it lies in the future, or does not fit whole hours of UTC.
            NotKeptError: its counts are not kept.
        """
        if self.start is not None:
            return self._window_between(retention, now)
        if self.period == "all":
            return ALL_TIME
        zone = self.zone
        start, end = window_at(self.period, read_moment("at", self.at or now.isoformat(), zone), zone)
        for each in (start, end):
            check_whole_hours("tz", each, self.tz)
        if start > now:
            raise QueryError("at", "lies in the future.")
        return window_between(start, end, retention, now)

    def times(self, now: datetime) -> tuple[datetime, datetime]:
        """Return the moments that `from` and `to` name; without `to`, up to now. Raises QueryError."""
        assert self.start is not None
        start = read_moment("from", self.start, self.zone).time
        end = read_moment("to", self.end, self.zone).time if self.end is not None else now
        return start.astimezone(UTC), end.astimezone(UTC)

    def _window_between(self, retention: Retention, now: datetime) -> Window:
        assert self.start is not None
        start = read_moment("from", self.start, self.zone)
        end = read_moment("to", self.end, self.zone) if self.end is not None else None
        for name, moment in (("from", start), ("to", end)):
            if moment:
                by_zone = "tz" if moment.kind != "moment" else name
                check_whole_hours(by_zone, moment.time, self.tz)
        if start.time > now:
            raise QueryError("from", "lies in the future.")
        ending = end.time if end else window_at("hour", read_moment("to", now.isoformat(), UTC), UTC)[1]
        if ending <= start.time:
            raise QueryError("to", "must be later than from; the time that it names is not included.")
        return window_between(start.time, ending, retention, now)

    def pinned(self, window: Window) -> Query:
        """Return the query with its times written out, so that it asks for the same rows later on."""
        if window.start is None or window.end is None:
            return self
        if self.start is not None:
            return replace(self, start=_text(window.start), end=_text(window.end))
        return replace(self, at=_text(window.start))

    def _check_times(self) -> None:
        for name, text in (("at", self.at), ("from", self.start), ("to", self.end)):
            if text is not None:
                read_moment(name, text, self.zone)
        read_zone(self.tz)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ")


def refuse_unknown(texts: Mapping[str, str], allowed: Collection[str]) -> None:
    """Refuse a parameter that a report does not have."""
    for name in texts:
        if name not in allowed:
            raise QueryError(name, f"is no parameter here; there are {', '.join(allowed)}.")


def read_limit(text: str | None) -> int:
    """Return how many rows a page may have."""
    if text is None:
        return DEFAULT_LIMIT
    if re.fullmatch(r"[0-9]{1,9}", text) and 1 <= int(text) <= MOST_LIMIT:
        return int(text)
    raise QueryError("limit", f"takes a whole number from 1 to {MOST_LIMIT:,}.")


def canonical_text(parameter: str, text: str) -> str:
    """Return a text in the canonical form that URLs have: percent-encoded, or as typed.

    Raises:
        QueryError: it is empty or too long.
    """
    found = quote_from_bytes(unquote_to_bytes(text.encode("utf-8", "surrogateescape")), safe="/")
    if not found or len(found) > MOST_TEXT_BYTES:
        raise QueryError(parameter, f"takes a text of 1 to {MOST_TEXT_BYTES:,} bytes.")
    return found


def _read_period(texts: Mapping[str, str]) -> str:
    period = texts.get("period", "all")
    if period not in ("all", *KINDS):
        raise QueryError("period", f"takes one of all, {', '.join(KINDS)}.")
    return period


def _read_prefix(texts: Mapping[str, str]) -> str:
    if "under" in texts:
        prefix = canonical_text("under", texts["under"])
        if not prefix.endswith("/"):
            raise QueryError("under", "takes a section, which ends in a slash.")
        return prefix
    return canonical_text("prefix", texts["prefix"]) if "prefix" in texts else ""


def _read_group(texts: Mapping[str, str]) -> int | str | None:
    if "under" in texts:
        return _read_prefix(texts).count("/")
    text = texts.get("group")
    if text in (None, PATTERNS, ROUTE):
        return text
    if text and re.fullmatch(r"[0-9]{1,2}", text) and 1 <= int(text) <= DEEPEST_GROUP:
        return int(text)
    raise QueryError("group", f"takes a depth from 1 to {DEEPEST_GROUP}, {PATTERNS} or {ROUTE}.")


def _refuse_together(texts: Mapping[str, str]) -> None:
    """Refuse parameters that contradict each other, or that would be without effect."""
    for name, others in (("period", ("from",)), ("at", ("from",)), ("under", ("prefix", "group"))):
        for other in others:
            if name in texts and other in texts:
                raise QueryError(name, f"does not go together with {other}.")
    for name in ("under", "group"):
        if name in texts and "search" in texts:
            raise QueryError("search", f"does not go together with {name}.")
    if "prefix" in texts and texts.get("group") == ROUTE:
        raise QueryError("prefix", f"does not go together with group={ROUTE}: which URLs a route had is not kept.")
    if "to" in texts and "from" not in texts:
        raise QueryError("to", "needs from.")
    in_time = "from" in texts or texts.get("period", "all") != "all"
    for name in ("at", "tz"):
        if name in texts and not in_time:
            raise QueryError(name, "needs period=hour, day or month, or from.")
