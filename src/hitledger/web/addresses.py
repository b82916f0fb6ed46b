"""The dashboard's addresses: every state of a page has one, and every page is read from one.

A page takes the parameters of `/stats/`, but people fill in its form: an empty field is none
at all, a range chosen beside a period stands for itself, and the range's last day, `until`,
belongs to it. Everything goes on to the report as that report takes it.
"""

from __future__ import annotations

from datetime import date, timedelta
from urllib.parse import urlencode

from hitledger.errors import QueryError
from hitledger.periods import KINDS, Period
from hitledger.report import Query
from hitledger.report.query import PAGE, ROWS

ROWS_SHOWN = 25
MOST_RANK_DIGITS = 12


def query_of(texts: dict[str, str]) -> Query:
    """Return what a page's address asks for. Raises QueryError."""
    given = {name: text for name, text in texts.items() if text and name not in ("rank", "by")}
    until = given.pop("until", "")
    if until:
        given["to"] = _day_behind(until)
        given.setdefault("from", until)
    if "from" in given:
        for name in ("period", "at"):
            given.pop(name, None)
    if "search" in given:
        given.pop("group", None)
    return Query.read({"limit": str(ROWS_SHOWN), **given}, ROWS + PAGE)


def _day_behind(until: str) -> str:
    try:
        return (date.fromisoformat(until) + timedelta(days=1)).isoformat()
    except (ValueError, OverflowError):
        raise QueryError("until", "takes a day, such as 2026-11-23.") from None


def rank_of(texts: dict[str, str]) -> int:
    """Return the rank of a page's first row."""
    text = texts.get("rank", "")
    return max(1, int(text)) if text.isascii() and text.isdecimal() and len(text) <= MOST_RANK_DIGITS else 1


def chart_kind_of(texts: dict[str, str]) -> str:
    """Return by which kind of period a page's chart is drawn. Raises QueryError."""
    by = texts.get("by") or ("day" if texts.get("period") == "month" or texts.get("from") else "hour")
    if by not in KINDS:
        raise QueryError("by", f"takes one of {', '.join(KINDS)}.")
    return by


def until_of(query: Query) -> str:
    """Return the last day of a query's range, as the form shows it; empty where it does not end with a day."""
    try:
        return (date.fromisoformat(query.end or "") - timedelta(days=1)).isoformat()
    except (ValueError, OverflowError):
        return ""


def link_of(query: Query, **changes: str | None) -> str:
    """Return the address of a query with some of its parameters changed; None takes one away."""
    given: dict[str, str | None] = {**query.rows_parameters, **changes}
    kept = {name: text for name, text in given.items() if text is not None}
    return "/?" + urlencode(kept) if kept else "/"


def period_link(query: Query, period: Period) -> str:
    """Return the address of a query in one period of UTC."""
    at = period.start.strftime("%Y-%m-%dT%H:%MZ") if period.kind == "hour" else period.name
    return link_of(query, **{"period": period.kind, "at": at, "from": None, "to": None, "tz": None})


def url_link(url: str, **parameters: str) -> str:
    """Return the address of one URL's page."""
    return "/url?" + urlencode({"url": url, **parameters})


def live_link(address: str, texts: dict[str, str]) -> str:
    """Return where a page's live parts are: the page's own parameters, less what is empty."""
    given = {name: text for name, text in texts.items() if text}
    # Bytes that are no UTF-8 stand in the texts as surrogates.
    return address + ("?" + urlencode(given, errors="surrogateescape") if given else "")


def url_crumbs(url: str) -> list[tuple[str, str]]:
    """Return the way down to a URL: each section above it, and the section's address."""
    steps = [("all", "/?" + urlencode({"prefix": "/", "group": "1"}))]
    at = "/"
    for segment in [each for each in url.split("/")[:-1] if each]:
        at += segment + "/"
        if at != url:
            steps.append((segment, "/?" + urlencode({"prefix": at, "group": str(at.count("/"))})))
    return steps


def crumbs_of(query: Query) -> list[tuple[str, str]]:
    """Return the way down to a query's section: each step's text and address."""
    if not query.prefix:
        return []
    steps = [("all", link_of(query, prefix="/", group="1"))]
    at = "/"
    for segment in [each for each in query.prefix.split("/") if each]:
        at += segment + "/"
        steps.append((segment, link_of(query, prefix=at, group=str(at.count("/")))))
    return steps
