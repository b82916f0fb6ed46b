"""`/stats/history` and `/stats/series`: requests over time, as JSON, and as a file to take away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from flask import Response, json
from flask_openapi3 import APIBlueprint
from pydantic import BaseModel, ConfigDict, Field

from hitledger.errors import QueryError
from hitledger.report import Query
from hitledger.report.export import MEDIA_TYPES
from hitledger.report.query import refuse_unknown
from hitledger.report.single import Point
from hitledger.web.problems import Problem
from hitledger.web.services import Services
from hitledger.web.stats import UNCHECKED, HistoryPoint, Responses, checked_here, let_in_origins, parameters
from hitledger.web.stats import series_response as json_response

TIMES = ("by", "from", "to", "tz")
FORMATS = ("csv", "ndjson")


class HistoryQuery(BaseModel):
    """Which periods to report."""

    model_config = ConfigDict(extra="forbid")

    by: Literal["hour", "day", "month"] = Field("day", description="The series' periods: hour, day or month, of UTC.")
    from_: str | None = Field(None, alias="from", description="The series begins here ...")
    to: str | None = Field(None, description="... and ends before this.")
    tz: str | None = Field(None, description="IANA time zone of from and to.")


class SeriesQuery(HistoryQuery):
    """Which periods, of what, and in which form."""

    url: str | None = Field(None, description="Only requests for this URL.")
    format: Literal["csv", "ndjson"] = Field("csv", description="csv or ndjson.")


class HistoryStats(BaseModel):
    """All requests over time."""

    as_of: str
    by: str
    series: list[HistoryPoint]


def series_api(services: Services) -> APIBlueprint:
    """Return the endpoints; each posts this host's journal before it reads."""
    blueprint = APIBlueprint("series", __name__, url_prefix="/stats")
    failures: Responses = {404: Problem, 422: Problem, 429: Problem, 503: Problem}
    unchanged: Responses = {304: {"description": "Nothing has changed since If-None-Match."}}
    files = {MEDIA_TYPES[kind].partition(";")[0]: {"schema": {"type": "string"}} for kind in FORMATS}
    exported: Responses = {200: {"description": "One period a line.", "content": files}}

    @blueprint.get(
        "/history", responses={200: HistoryStats, **unchanged, **failures}, summary="All requests by hour, day or month"
    )
    @checked_here
    def history(query: HistoryQuery = UNCHECKED) -> Response:
        del query
        texts = parameters()
        refuse_unknown(texts, TIMES)
        asked = _times(texts)
        services.counter.post_now()
        found = services.reports.history(texts.get("by", "day"), asked)
        return json_response(found.as_of, {"by": found.by}, found.series)

    @blueprint.get(
        "/series", responses={**exported, **failures}, summary="Requests over time, of all URLs or one, as a file"
    )
    @checked_here
    def series(query: SeriesQuery = UNCHECKED) -> Response:
        del query
        texts = parameters()
        refuse_unknown(texts, ("url", "format", *TIMES))
        kind, by, asked = texts.get("format", "csv"), texts.get("by", "day"), _times(texts)
        if kind not in FORMATS:
            raise QueryError("format", f"takes one of {', '.join(FORMATS)}.")
        services.counter.post_now()
        reports = services.reports
        points = reports.url(texts["url"], by, asked).series if "url" in texts else reports.history(by, asked).series
        return _file_response(points, kind)

    @blueprint.after_request
    def share(response: Response) -> Response:
        let_in_origins(response, services.settings.cors_origins)
        return response

    return blueprint


def _times(texts: dict[str, str]) -> Query:
    return Query.read({name: text for name, text in texts.items() if name in ("from", "to", "tz")})


def _file_response(points: Sequence[Point], kind: str) -> Response:
    if kind == "csv":
        body = "".join(f"{period},{requests}\r\n" for period, requests in [("period", "requests"), *points])
    else:
        body = "".join(json.dumps(point._asdict()) + "\n" for point in points)
    headers = {"Cache-Control": "no-store", "Content-Disposition": f'attachment; filename="hitledger.{kind}"'}
    return Response(body, headers=headers, content_type=MEDIA_TYPES[kind])
