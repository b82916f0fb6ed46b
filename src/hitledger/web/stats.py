"""`/stats/`: what has been requested, and how often.

Answers are made by hand from what the ledger says: URLs are ASCII in which JSON escapes
nothing. The models document them, and tests hold them against the answers.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime
from hashlib import sha256
from http import HTTPStatus
from itertools import chain
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode

from flask import Response, request
from flask_openapi3 import APIBlueprint
from pydantic import BaseModel, ConfigDict, Field

from hitledger.errors import QueryError
from hitledger.report import Page, Query
from hitledger.report.export import ENCODERS, MEDIA_TYPES, as_csv, compressed, compressions, torn_where_broken
from hitledger.report.page import rfc3339
from hitledger.report.query import DEFAULT_LIMIT, MOST_LIMIT, ROWS, refuse_unknown
from hitledger.report.single import UrlReport
from hitledger.web.problems import Problem, problem
from hitledger.web.services import Services

MOST_PARAMETERS = 32
UNCHECKED: Any = None
"""Stands for a model that only documents an endpoint: flask-openapi3 knows no optional ones."""
COMPRESSED_FROM_BYTES = 1400
"""Less fits into one packet anyway."""
ETAG_DIGITS = 24
"""Of SHA-256, which most processors have in their hardware: half the price of BLAKE2."""
MOST_EXPORTS = 2
"""Exports that one process streams at once: each keeps a thread busy."""
EXPORT_ONLY = ("format", "order", "after")
Responses = dict[str | int | HTTPStatus, type[BaseModel] | dict[Any, Any] | None]


class StatsQuery(BaseModel):
    """What to report."""

    model_config = ConfigDict(extra="forbid")

    period: Literal["all", "hour", "day", "month"] | None = Field(None, description="all, hour, day or month.")
    at: str | None = Field(None, description="Which hour, day or month (RFC 3339); the one that is running without it.")
    from_: str | None = Field(None, alias="from", description="Instead of period: from this hour or day on ...")
    to: str | None = Field(None, description="... up to, not including, this one.")
    tz: str | None = Field(None, description="IANA time zone of at, from and to; UTC without it.")
    prefix: str | None = Field(None, description="Only URLs that begin so, with the section's own total.")
    under: str | None = Field(None, description="A section's children, with their totals.")
    group: str | None = Field(
        None,
        description="Add URLs up by so many segments, by the settings' patterns, or by route (without prefix).",
        pattern="^(0?[1-9]|[1-5][0-9]|6[0-4]|patterns|route)$",
    )
    search: str | None = Field(None, description="Only URLs that contain this text.")


class PageQuery(StatsQuery):
    """What to report, and which page of it."""

    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MOST_LIMIT, description="Most rows in the answer.")
    cursor: str | None = Field(
        None, description="Continue where the page ended that gave it as `next`.", pattern="^[A-Za-z0-9_-]+$"
    )


class ExportQuery(StatsQuery):
    """What to export, and how."""

    format: Literal["ndjson", "csv", "parquet"] = Field("ndjson", description="ndjson, csv or parquet.")
    order: Literal["requests", "none"] = Field(
        "requests", description="requests: most requested first; none: as is quickest."
    )
    after: str | None = Field(
        None,
        description="Go on behind this row: its requests, a colon, its URL, section or route.",
        pattern=r"^[0-9]{1,16}:[ -~]+$",
    )


class UrlQuery(BaseModel):
    """Which URL to report."""

    model_config = ConfigDict(extra="forbid")

    url: str
    by: Literal["hour", "day", "month"] = Field("day", description="The series' periods: hour, day or month, of UTC.")
    from_: str | None = Field(None, alias="from", description="The series begins here ...")
    to: str | None = Field(None, description="... and ends before this.")
    tz: str | None = Field(None, description="IANA time zone of from and to.")


class UrlRow(BaseModel):
    """One URL."""

    url: str
    requests: int


class SectionRow(BaseModel):
    """One section."""

    section: str
    requests: int
    urls: int


class RouteRow(BaseModel):
    """One route."""

    route: str
    requests: int


class SectionTotal(BaseModel):
    """All URLs that begin with the prefix."""

    prefix: str
    requests: int
    urls: int


class StatsPage(BaseModel):
    """Rows, most requested first; equal counts by URL, descending byte by byte."""

    as_of: str = Field(description="When the counts were read (RFC 3339).")
    period: str
    total_requests: int = Field(description="All requests of the time, those under `other` included.")
    total_urls: int | None
    other: dict[str, int] = Field(description="Requests that are counted under no URL; by route, those under none.")
    section: SectionTotal | None = Field(None, description="With prefix or under.")
    total_sections: int | None = Field(None, description="With group or under.")
    total_routes: int | None = Field(None, description="With group=route.")
    complete: bool = Field(True, description="False where a search stopped when its time was up; `next` goes on.")
    urls: list[UrlRow] | None = None
    sections: list[SectionRow] | None = None
    routes: list[RouteRow] | None = None
    next: str | None = Field(description="Where the next page is; null on the last one.")


class HistoryPoint(BaseModel):
    """How often a URL was requested in one period."""

    period: str
    requests: int


class UrlStats(BaseModel):
    """One URL."""

    as_of: str
    url: str
    requests: int
    rank: int | None = Field(description="1 is the most requested; null where it never was.")
    by: str
    series: list[HistoryPoint]


def stats_api(services: Services) -> APIBlueprint:
    """Return the endpoints that report counts; each shows all that this host has journalled."""
    blueprint = APIBlueprint("stats", __name__, url_prefix="/stats")
    exports = threading.Semaphore(MOST_EXPORTS)
    failures: Responses = {404: Problem, 422: Problem, 429: Problem, 503: Problem}
    unchanged: Responses = {304: {"description": "Nothing has changed since If-None-Match."}}
    files = {kind.partition(";")[0]: {"schema": {"type": "string"}} for kind in MEDIA_TYPES.values()}
    exported: Responses = {200: {"description": "One row a line, or a Parquet file.", "content": files}}

    @blueprint.get(
        "/", responses={200: StatsPage, **unchanged, **failures}, summary="URLs, sections or routes by requests"
    )
    @checked_here
    def stats(query: PageQuery = UNCHECKED) -> Response:
        del query
        asked = Query.read(parameters())
        page = services.reports.page(asked, services.counter)
        if _wants_csv():
            return _whole(
                b"".join(as_csv(iter([page.flat]), page.columns)), MEDIA_TYPES["csv"], _following(asked, page)
            )
        return _page_response(asked, page)

    @blueprint.get(
        "/url", responses={200: UrlStats, **unchanged, **failures}, summary="One URL: total, rank and history"
    )
    @checked_here
    def one_url(query: UrlQuery = UNCHECKED) -> Response:
        del query
        texts = parameters()
        refuse_unknown(texts, ("url", "by", "from", "to", "tz"))
        if "url" not in texts:
            raise QueryError("url", "is missing.")
        asked = Query.read({name: text for name, text in texts.items() if name in ("from", "to", "tz")})
        services.counter.post_now()
        return _url_response(services.reports.url(texts["url"], texts.get("by", "day"), asked))

    @blueprint.get("/export", responses={**exported, **failures}, summary="All rows, streamed")
    @checked_here
    def export(query: ExportQuery = UNCHECKED) -> Response:
        del query
        texts = parameters()
        refuse_unknown(texts, ROWS + EXPORT_ONLY)
        asked = Query.read({name: text for name, text in texts.items() if name in ROWS})
        kind, in_order, behind = _read_export(texts)
        services.counter.post_now()
        if not exports.acquire(blocking=False):
            problem(503, "Enough exports are running already.", {"Retry-After": "10"})
        rows = services.reports.rows(asked, behind, in_order=in_order)
        chunks = _released(ENCODERS[kind](rows, asked.columns), exports)
        return _streamed(chunks, kind)

    @blueprint.after_request
    def share(response: Response) -> Response:
        let_in_origins(response, services.settings.cors_origins)
        return response

    return blueprint


def let_in_origins(response: Response, allowed: Sequence[str]) -> None:
    """Let pages of other origins read a report, where the settings name them (Fetch standard, CORS)."""
    if not allowed:
        return
    response.vary.add("Origin")
    origin = request.headers.get("Origin", "")
    if origin in allowed or "*" in allowed:
        response.headers["Access-Control-Allow-Origin"] = "*" if "*" in allowed else origin
        response.headers["Access-Control-Expose-Headers"] = "ETag, Link, X-Request-ID"
        if request.method == "OPTIONS":
            response.headers["Access-Control-Allow-Methods"] = "GET, HEAD"
            response.headers["Access-Control-Allow-Headers"] = "Accept, Authorization, If-None-Match"
            response.headers["Access-Control-Max-Age"] = "600"


def checked_here(view: Any) -> Any:
    """Keep flask-openapi3 from checking the query: it makes the model's schema anew for each request (0.3 ms).

    The model still documents the endpoint; a test holds it against what `Query.read` takes.
    """
    view.__delay_validate_request__ = True
    return view


def parameters() -> dict[str, str]:
    """Return the request's parameters; bytes that are no UTF-8 survive as surrogates."""
    try:
        # Given as bytes, it would refuse whatever is not ASCII once it is decoded.
        pairs = parse_qsl(
            request.query_string.decode("utf-8", "surrogateescape"),
            keep_blank_values=True,
            errors="surrogateescape",
            max_num_fields=MOST_PARAMETERS,
        )
    except ValueError:
        raise QueryError("query", f"has more than {MOST_PARAMETERS} parameters.") from None
    return {name.encode("utf-8", "replace").decode(): value for name, value in pairs}


def _wants_csv() -> bool:
    # Most say nothing, or that anything will do: that needs no weighing.
    if request.environ.get("HTTP_ACCEPT", "*/*") == "*/*":
        return False
    return request.accept_mimetypes.best_match(["application/json", "text/csv"]) == "text/csv"


def _following(query: Query, page: Page) -> str | None:
    if page.cursor is None:
        return None
    return f"/stats/?{urlencode({**query.parameters, 'cursor': page.cursor})}"


def _page_response(query: Query, page: Page) -> Response:
    following = _following(query, page)
    text = f'{json.dumps(page.head)[1:-1]}, "{page.named}": {page.rows_json}, "next": {json.dumps(following)}}}\n'
    content = text.encode()
    body = f'{{"as_of": "{rfc3339(page.as_of)}", '.encode() + content
    return _whole(body, "application/json", following, content)


def _url_response(report: UrlReport) -> Response:
    head = {"url": report.url, "requests": report.requests, "rank": report.rank, "by": report.by}
    return series_response(report.as_of, head, report.series)


def series_response(as_of: datetime, head: dict[str, Any], series: Sequence[tuple[str, int]]) -> Response:
    """Answer with requests by period, behind what else there is to say."""
    content = {**head, "series": [{"period": period, "requests": requests} for period, requests in series]}
    body = json.dumps({"as_of": rfc3339(as_of), **content}) + "\n"
    return _whole(body.encode(), "application/json", None, json.dumps(content).encode())


def _whole(body: bytes, media_type: str, following: str | None, content: bytes | None = None) -> Response:
    """Answer with a body that is there as a whole; `content` is what of it makes a difference to its reader."""
    headers = {"Cache-Control": "no-cache", "Vary": "Accept, Accept-Encoding"}
    if following is not None:
        headers["Link"] = f'<{following}>; rel="next"'
    # A weak validator: `as_of` moves on while nothing else does.
    etag = sha256(content or body, usedforsecurity=False).hexdigest()[:ETAG_DIGITS]
    headers["ETag"] = f'W/"{etag}"'
    if request.if_none_match.contains_weak(etag):
        return Response(status=304, headers=headers)
    if len(body) >= COMPRESSED_FROM_BYTES and _coding(["gzip"]) == "gzip":
        body = gzip.compress(body, compresslevel=1, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(body, headers=headers, content_type=media_type)


def _coding(offered: list[str]) -> str:
    """Return the content coding that the client likes best, of equals the first (RFC 9110, 12.5.3)."""
    likes = request.accept_encodings.quality
    best = max((*offered, "identity"), key=likes)
    return best if likes(best) > 0 else "identity"


def _read_export(texts: dict[str, str]) -> tuple[str, bool, tuple[int, str] | None]:
    kind = texts.get("format", "ndjson")
    if kind not in ENCODERS:
        raise QueryError("format", f"takes one of {', '.join(ENCODERS)}.")
    order = texts.get("order", "requests")
    if order not in ("requests", "none"):
        raise QueryError("order", "takes requests or none.")
    hits, _, url = texts.get("after", "").partition(":")
    if "after" in texts and not (hits.isascii() and hits.isdecimal() and len(hits) <= 16 and url.isascii() and url):
        raise QueryError(
            "after", "takes the requests, a colon and the name of the last row that was received, as 17:/api/x/."
        )
    return kind, order == "requests", (int(hits), url) if "after" in texts else None


def _released(chunks: Iterator[bytes], exports: threading.Semaphore) -> Iterator[bytes]:
    try:
        yield from chunks
    finally:
        exports.release()


def _streamed(chunks: Iterator[bytes], kind: str) -> Response:
    # What can be said as an error must be said before the first byte.
    first = next(chunks, b"")
    coding = "identity" if kind == "parquet" else _coding(compressions())
    headers = {
        "Cache-Control": "no-store",
        "Content-Disposition": f'attachment; filename="hitledger.{kind}"',
        "Vary": "Accept-Encoding",
    }
    if coding != "identity":
        headers["Content-Encoding"] = coding
    whole = torn_where_broken(chain([first], chunks), kind)
    body: Iterator[bytes] = iter(()) if request.method == "HEAD" else compressed(whole, coding)
    response = Response(body, headers=headers, content_type=MEDIA_TYPES[kind])
    response.call_on_close(chunks.close)  # type: ignore[attr-defined] # it is a generator
    return response
