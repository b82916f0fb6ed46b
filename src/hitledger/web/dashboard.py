"""The dashboard: what the report API says, as pages for people.

Pages are rendered here and can be read without JavaScript; a small script keeps the first one
up to date through `/live/`, which is not counted. Every state of a page is in its address.
Paths are hostile text: they are canonical ASCII when they come here, Jinja escapes them all
the same, and a strict Content-Security-Policy lets no script run but our own.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, abort, render_template

from hitledger.errors import HitledgerError, LedgerError, QueryError
from hitledger.periods import Period
from hitledger.report import Page, Query
from hitledger.report.page import rfc3339
from hitledger.report.query import PAGE, ROWS
from hitledger.web.balance import balance_of
from hitledger.web.runs import TestRun
from hitledger.web.services import Services
from hitledger.web.stats import parameters

log = logging.getLogger("hitledger.web")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
ROWS_SHOWN = 25
MOST_REMEMBERED = 64
PERIODS = (("all", "All time"), ("hour", "This hour"), ("day", "Today"), ("month", "This month"))


@dataclass(frozen=True)
class Shown:
    """A page of the report as it is shown: `error` where it is not what was asked for now."""

    page: Page | None
    error: str = ""


class Memory:
    """The last pages that could be read, for when the ledger is away."""

    def __init__(self) -> None:
        self._pages: OrderedDict[Query, Page] = OrderedDict()

    def keep(self, query: Query, page: Page) -> None:
        """Remember a page."""
        self._pages[query] = page
        self._pages.move_to_end(query)
        while len(self._pages) > MOST_REMEMBERED:
            self._pages.popitem(last=False)

    def last(self, query: Query) -> Page | None:
        """Return the page as it was last read."""
        return self._pages.get(query)


def dashboard_blueprint(services: Services) -> Blueprint:
    """Return the pages at `/` and what keeps them up to date."""
    blueprint = Blueprint("dashboard", __name__)
    view = Dashboard(services)
    blueprint.add_url_rule("/", "now", view.now)
    blueprint.add_url_rule("/live/", "live", view.live)
    blueprint.add_url_rule("/runs/", "runs", view.runs)
    blueprint.add_url_rule("/live/runs/<run_id>/", "live_run", view.live_run)

    @blueprint.after_request
    def protect(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["Referrer-Policy"] = "same-origin"
        response.headers["Cache-Control"] = "no-store"
        return response

    return blueprint


class Dashboard:
    """The views."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._memory = Memory()

    def now(self) -> Response | tuple[str, int]:
        """Show the hottest URLs or sections of a period, found and walked through by the address."""
        texts = parameters()
        rank = int(texts.pop("rank", "1")) if texts.get("rank", "1").isdecimal() else 1
        texts = {name: text for name, text in texts.items() if text}
        try:
            query = Query.read({"limit": str(ROWS_SHOWN), **texts}, ROWS + PAGE)
            shown = self._read(query)
            status = 200
        except QueryError as error:
            query, shown, status = Query(limit=ROWS_SHOWN), Shown(None, f"{error.parameter}: {error.message}"), 422
        context = {
            "query": query,
            "texts": texts,
            # As it was typed, unless that could turn the page's own text around.
            "typed": texts.get("search", "") if texts.get("search", "").isprintable() else query.search,
            "shown": shown,
            "page": shown.page,
            "rows": self._rows(shown.page, rank),
            "crumbs": crumbs_of(query),
            "periods": PERIODS,
            "following": self._following(query, shown.page, rank),
            "exports": urlencode(query.rows_parameters),
            "link": link_of,
            "balance": balance_of(self._services),
        }
        return render_template("now.html", **context), status

    def live(self) -> Response:
        """Return what changes on the first page, as JSON; asked for once a second by pages that are seen."""
        texts = {name: text for name, text in parameters().items() if text and name not in ("rank", "cursor")}
        query = Query.read({"limit": str(ROWS_SHOWN), **texts}, ROWS + PAGE)
        shown = self._read(query)
        page = shown.page
        content: dict[str, Any] = {"error": shown.error, "balance": balance_of(self._services)}
        if page:
            content |= {
                "as_of": rfc3339(page.as_of),
                "total_requests": page.total_requests,
                "total_urls": page.total_urls,
                "rows": self._rows(page, 1),
            }
        return _json(content)

    def runs(self) -> str:
        """List the test runs, and offer a new one."""
        error = ""
        runs: list[TestRun] = []
        try:
            runs = [TestRun.of(run) for run in self._services.runs.list(50)]
        except HitledgerError:
            error = "The ledger cannot be read now."
        most = self._services.settings.test_max_requests
        return render_template("runs.html", runs=runs, error=error, most=most, balance=balance_of(self._services))

    def live_run(self, run_id: str) -> Response:
        """Return one test run, as `/test/runs/<id>/` does, without counting."""
        run = self._services.runs.get(run_id)
        if run is None:
            abort(404)
        return Response(TestRun.of(run).model_dump_json(), mimetype="application/json")

    def _read(self, query: Query) -> Shown:
        """Read a page, or give the last one that could be read, and say why."""
        try:
            self._services.counter.post_now()
            page = self._services.reports.page(query)
        except QueryError:
            raise
        except LedgerError as error:
            log.debug("the dashboard shows what it last read: %s", error)
            return Shown(self._memory.last(query), "The ledger cannot be read now. Requests are still counted.")
        except HitledgerError as error:
            return Shown(self._memory.last(query), error.message)
        self._memory.keep(query, page)
        return Shown(page)

    def _rows(self, page: Page | None, rank: int) -> list[dict[str, Any]]:
        if page is None:
            return []
        total = page.section.requests if page.section else page.total_requests
        if page.width == 3:
            return [
                {
                    "rank": rank + index, "name": row.section, "requests": row.requests, "urls": row.urls,
                    "share": share_of(row.requests, total), "is_section": row.urls > 1 or row.section.endswith("/"),
                }
                for index, row in enumerate(page.sections)
            ]  # fmt: skip
        recent = self._this_hour([row.url for row in page.rows])
        return [
            {
                "rank": rank + index, "name": row.url, "requests": row.requests,
                "share": share_of(row.requests, total), "recent": recent.get(row.url, 0),
            }
            for index, row in enumerate(page.rows)
        ]  # fmt: skip

    def _this_hour(self, urls: list[str]) -> dict[str, int]:
        """Return how often URLs were requested in this hour so far."""
        store = self._services.store
        hour = Period.containing("hour", datetime.now(UTC))
        calls = [(shard, ("ZMSCORE", store.set_key(shard, hour), *urls)) for shard in range(store.identity.shards)]
        if not urls:
            return {}
        try:
            found = store.read(calls)
        except LedgerError:
            return {}
        pairs = (pair for answers in found for pair in zip(urls, answers, strict=True))
        return {url: int(hits) for url, hits in pairs if hits is not None}

    def _following(self, query: Query, page: Page | None, rank: int) -> str:
        if page is None or page.cursor is None:
            return ""
        following = {**query.parameters, "cursor": page.cursor, "rank": str(rank + len(page.flat) // page.width)}
        following.pop("limit", None)
        return "/?" + urlencode(following)


def crumbs_of(query: Query) -> list[tuple[str, str]]:
    """Return the way down to a query's section: each step's text and address."""
    steps = [("all", link_of(query, prefix=None, group=None))]
    at = "/"
    for segment in [each for each in query.prefix.split("/") if each]:
        at += segment + "/"
        steps.append((segment, link_of(query, prefix=at, group=str(at.count("/")))))
    return steps if query.prefix else []


def link_of(query: Query, **changes: str | None) -> str:
    """Return the address of a query with some of its parameters changed; None takes one away."""
    given = dict(query.rows_parameters)
    for name, text in changes.items():
        if text is None:
            given.pop(name, None)
        else:
            given[name] = text
    return "/?" + urlencode(given) if given else "/"


def share_of(part: int, whole: int) -> str:
    """Return a share in per cent, as people read it."""
    return f"{100 * part / whole:.1f} %" if whole else ""


def _json(content: dict[str, Any]) -> Response:

    return Response(json.dumps(content), mimetype="application/json")
