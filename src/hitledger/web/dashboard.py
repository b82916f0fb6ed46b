"""The dashboard: what the report API says, as pages for people.

Pages are rendered here and can be read without JavaScript. What changes on them is drawn from the
same partial templates for `/live/…`, which is not counted, and which many tabs share (`feed`); a
small script puts it in its place. Every state of a page is in its address. Paths are hostile text:
Jinja escapes them all, and a strict Content-Security-Policy lets no script run but our own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, redirect, render_template, request
from flask.typing import ResponseReturnValue

from hitledger.errors import QueryError
from hitledger.rights import TEST_RUN
from hitledger.web.auth.principal import principal
from hitledger.web.chart import line_of
from hitledger.web.desk import Desk
from hitledger.web.feed import FRESH_SECONDS, Feed
from hitledger.web.forms import Forms
from hitledger.web.names import readable
from hitledger.web.now import now_context
from hitledger.web.one_url import url_context
from hitledger.web.problems import ProblemError, problem
from hitledger.web.run_page import runs_context
from hitledger.web.runs import cancel_run, start_run
from hitledger.web.safety import protect_pages
from hitledger.web.services import Services
from hitledger.web.stats import parameters

RUN_FRESH_SECONDS = 0.4
"""A run's progress is watched closely."""
Context = Callable[[Desk, dict[str, str]], dict[str, Any]]


def dashboard_blueprint(services: Services) -> Blueprint:
    """Return the pages at `/` and what keeps them up to date."""
    blueprint = Blueprint("dashboard", __name__)
    protect_pages(blueprint, services.settings)
    view = Dashboard(services)
    blueprint.add_url_rule("/", "now", view.now)
    blueprint.add_url_rule("/url", "one_url", view.one_url)
    blueprint.add_url_rule("/runs/", "runs", view.runs)
    blueprint.add_url_rule("/runs/", "start_run", view.start_run, methods=["POST"])
    blueprint.add_url_rule("/runs/<run_id>/cancel/", "cancel_run", view.cancel_run, methods=["POST"])
    blueprint.add_url_rule("/live/", "live", view.live_now)
    blueprint.add_url_rule("/live/url", "live_url", view.live_url)
    blueprint.add_url_rule("/live/runs/", "live_run", view.live_runs)
    blueprint.add_app_template_filter(readable)
    blueprint.add_app_template_filter("{:,}".format, "number")
    blueprint.add_app_template_filter(line_of, "line")

    @blueprint.after_request
    def keep_fresh(response: Response) -> Response:
        response.headers["Cache-Control"] = "no-store"
        return response

    return blueprint


class Dashboard:
    """The views."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._desk = Desk(services)
        self._feed = Feed()
        self._forms = Forms(services.settings)

    def now(self) -> tuple[str, int]:
        """Show the hottest URLs or sections of a period, found and walked through by the address."""
        return self._page("now.html", now_context)

    def one_url(self) -> tuple[str, int]:
        """Show one URL: its total, its rank, and its history as a chart and a table."""
        return self._page("url.html", url_context)

    def runs(self) -> tuple[str, int]:
        """List the test runs, follow one, and offer a new one."""
        return self._page("runs.html", runs_context)

    def live_now(self) -> Response:
        """Return what changes on the first page."""
        return self._live(now_context)

    def live_url(self) -> Response:
        """Return what changes on a URL's page."""
        return self._live(url_context)

    def live_runs(self) -> Response:
        """Return what changes on the page of test runs."""
        return self._live(runs_context, RUN_FRESH_SECONDS)

    def start_run(self) -> ResponseReturnValue:
        """Start a test run from the page's form, and lead to it."""
        try:
            run_id = start_run(self._services, self._forms.read().get("n", ""))
        except ProblemError as error:
            return self._refused({}, error)
        return redirect(f"/runs/?run={run_id}", 303)

    def cancel_run(self, run_id: str) -> ResponseReturnValue:
        """Cancel a run from the page's form, and lead back to it."""
        try:
            cancel_run(self._services, run_id)
        except ProblemError as error:
            return self._refused({"run": run_id}, error)
        return redirect(f"/runs/?run={run_id}", 303)

    def _refused(self, texts: dict[str, str], error: ProblemError) -> ResponseReturnValue:
        context = runs_context(self._desk, texts) | {"refusal": error.detail}
        return render_template("runs.html", **context), error.status, error.headers

    def _page(self, template: str, context_of: Context) -> tuple[str, int]:
        context: dict[str, Any]
        try:
            texts = parameters()
        except QueryError as error:
            texts = {"query": error.message}
        context = context_of(self._desk, texts)
        return render_template(template, **context), context["status"]

    def _live(self, context_of: Context, fresh_seconds: float = FRESH_SECONDS) -> Response:
        """Return a page's parts, each under its id, drawn for all tabs that show the same."""
        texts = parameters()

        def draw() -> str:
            context = context_of(self._desk, texts)
            if context["status"] != 200:
                problem(context["status"], context["shown"].error)
            return render_template("live.html", **context)

        # Drawn for all who may do the same: only they see a button for it.
        asked = f"{principal().may(TEST_RUN)} {request.full_path}"
        fragment = self._feed.fragment(asked, draw, fresh_seconds)
        if fragment is None:
            problem(503, "Much is being looked at just now; ask again.", {"Retry-After": "1"})
        accepts = request.accept_encodings.quality("gzip") > 0
        response = Response(fragment.compressed if accepts else fragment.body, mimetype="text/html")
        response.headers["Vary"] = "Accept-Encoding"
        if accepts:
            response.headers["Content-Encoding"] = "gzip"
        return response
