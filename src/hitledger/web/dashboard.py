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
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, abort, render_template

from hitledger.errors import HitledgerError, LedgerError, QueryError, ReportBusyError
from hitledger.periods import Period
from hitledger.report import Page, Query
from hitledger.report.page import rfc3339
from hitledger.report.query import refuse_unknown
from hitledger.report.single import UrlReport
from hitledger.web.addresses import ROWS_SHOWN, crumbs_of, link_of, query_of, rank_of, until_of, url_link
from hitledger.web.balance import balance_of
from hitledger.web.chart import chart_of
from hitledger.web.runs import TestRun
from hitledger.web.safety import protect_pages
from hitledger.web.services import Services
from hitledger.web.stats import parameters

log = logging.getLogger("hitledger.web")

MOST_REMEMBERED = 64
PERIODS = (("all", "All time"), ("hour", "This hour"), ("day", "Today"), ("month", "This month"))
KINDS_SHOWN = (("hour", "Hours"), ("day", "Days"), ("month", "Months"))


@dataclass(frozen=True)
class Shown:
    """A report as it is shown: `error` where it is not what was asked for now; `busy` where it soon will be."""

    report: Any
    error: str = ""
    status: int = 200
    busy: bool = False


class Memory:
    """The last reports that could be read, for when the ledger is away."""

    def __init__(self) -> None:
        self._reports: OrderedDict[Hashable, Any] = OrderedDict()

    def keep(self, asked: Hashable, report: Any) -> None:
        """Remember a report."""
        self._reports[asked] = report
        self._reports.move_to_end(asked)
        while len(self._reports) > MOST_REMEMBERED:
            self._reports.popitem(last=False)

    def last(self, asked: Hashable) -> Any:
        """Return the report as it was last read; None where it never was."""
        return self._reports.get(asked)


def dashboard_blueprint(services: Services) -> Blueprint:
    """Return the pages at `/` and what keeps them up to date."""
    blueprint = Blueprint("dashboard", __name__)
    protect_pages(blueprint, services.settings)
    view = Dashboard(services)
    blueprint.add_url_rule("/", "now", view.now)
    blueprint.add_url_rule("/live/", "live", view.live)
    blueprint.add_url_rule("/url", "one_url", view.one_url)
    blueprint.add_url_rule("/runs/", "runs", view.runs)
    blueprint.add_url_rule("/live/runs/<run_id>/", "live_run", view.live_run)

    @blueprint.after_request
    def keep_fresh(response: Response) -> Response:
        response.headers["Cache-Control"] = "no-store"
        return response

    return blueprint


class Dashboard:
    """The views."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._memory = Memory()

    def now(self) -> tuple[str, int]:
        """Show the hottest URLs or sections of a period, found and walked through by the address."""
        texts: dict[str, str] = {}
        try:
            texts = parameters()
            query = query_of(texts)
            shown = self._read_page(query)
        except QueryError as error:
            query, shown = Query(limit=ROWS_SHOWN), Shown(None, f"{error.parameter}: {error.message}", 422)
        page: Page | None = shown.report
        rank = rank_of(texts)
        context = {
            "query": query,
            "texts": texts,
            # As it was typed, unless that could turn the page's own text around.
            "typed": texts.get("search", "") if texts.get("search", "").isprintable() else query.search,
            "until": until_of(query),
            "shown": shown,
            "page": page,
            "rows": self._rows(page, rank),
            "today": self._today(page, query),
            "crumbs": crumbs_of(query),
            "periods": PERIODS,
            "following": self._following(query, page, rank),
            "exports": urlencode(query.rows_parameters),
            "link": link_of,
            "url_link": url_link,
            "balance": balance_of(self._services),
        }
        return render_template("now.html", **context), shown.status

    def live(self) -> Response:
        """Return what changes on the first page, as JSON; asked for once a second by pages that are seen."""
        query = query_of({name: text for name, text in parameters().items() if name != "cursor"})
        shown = self._read_page(query)
        page: Page | None = shown.report
        content: dict[str, Any] = {"error": shown.error, "balance": balance_of(self._services)}
        if page:
            content |= {
                "as_of": rfc3339(page.as_of),
                "requests": page.section.requests if page.section else page.total_requests,
                "urls": page.section.urls if page.section else page.total_urls,
                "today": self._today(page, query),
                "rows": self._rows(page, 1),
            }
        return _json(content)

    def one_url(self) -> tuple[str, int]:
        """Show one URL: its total, its rank, and its history as a chart and a table."""
        by = "day"
        try:
            texts = {name: text for name, text in parameters().items() if text}
            url, by = texts.get("url", ""), texts.get("by", by)
            refuse_unknown(texts, ("url", "by", "from", "to"))
            times = Query.read({name: text for name, text in texts.items() if name in ("from", "to")})
            if not url:
                raise QueryError("url", "is missing.")
            shown = self._read(("url", url, by, times), lambda: self._services.reports.url(url, by, times))
        except QueryError as error:
            shown = Shown(None, f"{error.parameter}: {error.message}", 422)
        report: UrlReport | None = shown.report
        context = {
            "report": report,
            "shown": shown,
            "by": by,
            "kinds": KINDS_SHOWN,
            "chart": chart_of(report.series) if report else None,
            "url_link": url_link,
            "balance": balance_of(self._services),
        }
        return render_template("url.html", **context), shown.status

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

    def _read_page(self, query: Query) -> Shown:
        return self._read(query, lambda: self._services.reports.page(query))

    def _read(self, asked: Hashable, read: Callable[[], Any]) -> Shown:
        """Read a report, or give the last one that could be read, and say why. Raises QueryError."""
        try:
            self._services.counter.post_now()
            report = read()
        except QueryError:
            raise
        except LedgerError as error:
            log.debug("the dashboard shows what it last read: %s", error)
            return Shown(self._memory.last(asked), "The ledger cannot be read now. Requests are still counted.")
        except ReportBusyError as error:
            return Shown(self._memory.last(asked), error.message, busy=True)
        except HitledgerError as error:
            return Shown(self._memory.last(asked), f"{error.message} {error.hint}")
        self._memory.keep(asked, report)
        return Shown(report)

    def _today(self, page: Page | None, query: Query) -> int | None:
        """Return the requests of this day so far, where the page itself does not say them."""
        if page is None or query.rows_parameters:
            return None
        try:
            return self._services.store.totals(Period.containing("day", datetime.now(UTC))).requests
        except LedgerError:
            return None

    def _rows(self, page: Page | None, rank: int) -> list[dict[str, Any]]:
        if page is None:
            return []
        total = page.section.requests if page.section else page.total_requests
        if page.width == 3:
            return [
                {
                    "rank": rank + index, "name": row.section, "requests": row.requests, "urls": row.urls,
                    "share": share_of(row.requests, total), "is_section": row.section.endswith("/"),
                }
                for index, row in enumerate(page.sections)
            ]  # fmt: skip
        hours = self._last_hours([row.url for row in page.rows])
        return [
            {
                "rank": rank + index, "name": row.url, "requests": row.requests,
                "share": share_of(row.requests, total), "recent": hours[0].get(row.url, 0),
                "before": hours[1].get(row.url, 0),
            }
            for index, row in enumerate(page.rows)
        ]  # fmt: skip

    def _last_hours(self, urls: list[str]) -> tuple[dict[str, int], dict[str, int]]:
        """Return how often URLs were requested in this hour so far, and in the one before."""
        if not urls:
            return {}, {}
        store, now = self._services.store, datetime.now(UTC)
        try:
            shards = range(store.identity.shards)
            hours = [Period.containing("hour", each) for each in (now, now - timedelta(hours=1))]
            calls = [(shard, ("ZMSCORE", store.set_key(shard, hour), *urls)) for hour in hours for shard in shards]
            answers = store.read(calls)
        except LedgerError:
            return {}, {}
        this, before = (
            {
                url: int(hits)
                for scores in answers[start : start + len(shards)]
                for url, hits in zip(urls, scores, strict=True)
                if hits is not None
            }
            for start in (0, len(shards))
        )
        return this, before

    def _following(self, query: Query, page: Page | None, rank: int) -> str:
        if page is None or page.cursor is None:
            return ""
        following = {**query.parameters, "cursor": page.cursor, "rank": str(rank + len(page.flat) // page.width)}
        following.pop("limit", None)
        return "/?" + urlencode(following)


def share_of(part: int, whole: int) -> str:
    """Return a share in per cent, as people read it."""
    return f"{100 * part / whole:.1f} %" if whole else ""


def _json(content: dict[str, Any]) -> Response:
    return Response(json.dumps(content), mimetype="application/json")
