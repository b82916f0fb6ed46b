"""`/stats/`: what has been requested, and how often."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode

from flask import Response, json, request
from flask_openapi3 import APIBlueprint
from pydantic import BaseModel, ConfigDict, Field

from hitledger.errors import QueryError
from hitledger.paths import LINES
from hitledger.report import Page, Query
from hitledger.report.page import rfc3339
from hitledger.report.query import DEFAULT_LIMIT, MOST_LIMIT
from hitledger.web.problems import Problem
from hitledger.web.services import Services

MOST_PARAMETERS = 32
UNCHECKED: Any = None
"""Stands for a model that only documents an endpoint: flask-openapi3 knows no optional ones."""


class StatsQuery(BaseModel):
    """What to report."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MOST_LIMIT, description="Most URLs in the answer.")
    cursor: str | None = Field(None, description="Continue where the page ended that gave it as `next`.")


class UrlRow(BaseModel):
    """One URL."""

    url: str
    requests: int


class StatsPage(BaseModel):
    """URLs, most requested first; equal counts by URL, descending byte by byte."""

    as_of: str = Field(description="When the counts were read (RFC 3339).")
    period: str
    total_requests: int = Field(description="All requests of the period, those under `other` included.")
    total_urls: int
    other: dict[str, int] = Field(description="Requests that are counted under no URL.")
    urls: list[UrlRow]
    next: str | None = Field(description="Where the next page is; null on the last one.")


def stats_api(services: Services) -> APIBlueprint:
    """Return the endpoints that report counts; each posts this host's journal before it reads."""
    blueprint = APIBlueprint("stats", __name__, url_prefix="/stats")

    @blueprint.get("/", responses={200: StatsPage, 422: Problem, 503: Problem}, summary="URLs by requests")
    @checked_here
    def stats(query: StatsQuery = UNCHECKED) -> Response:
        del query
        asked = Query.read(parameters())
        services.counter.post_now()
        return _page_response(asked, services.reports.page(asked))

    return blueprint


def checked_here(view: Any) -> Any:
    """Keep flask-openapi3 from checking the query: it makes the model's schema anew for each request (0.3 ms).

    The model still documents the endpoint; a test holds it against what `Query.read` takes.
    """
    view.__delay_validate_request__ = True
    return view


def parameters() -> dict[str, str]:
    """Return the request's parameters; bytes that are no UTF-8 survive as surrogates."""
    try:
        pairs = parse_qsl(request.query_string, keep_blank_values=True, max_num_fields=MOST_PARAMETERS)
    except ValueError:
        raise QueryError("query", f"has more than {MOST_PARAMETERS} parameters.") from None
    return {name.decode("utf-8", "replace"): value.decode("utf-8", "surrogateescape") for name, value in pairs}


def _page_response(query: Query, page: Page) -> Response:
    following = None
    if page.cursor is not None:
        following = f"/stats/?{urlencode({**query.parameters, 'cursor': page.cursor})}"
    head = {
        "as_of": rfc3339(page.as_of),
        "period": page.period,
        "total_requests": page.total_requests,
        "total_urls": page.total_urls,
        "other": {line: page.other.get(line, 0) for line in LINES},
    }
    body = f'{json.dumps(head)[:-1]}, "urls": {page.rows_json}, "next": {json.dumps(following)}}}\n'
    response = Response(body, mimetype="application/json")
    response.headers["Cache-Control"] = "no-store"
    if following is not None:
        response.headers["Link"] = f'<{following}>; rel="next"'
    return response
