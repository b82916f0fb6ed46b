"""The web service: one factory that builds everything and passes it down."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from flask import Flask
from flask_openapi3 import Info, OpenAPI

from hitledger.counting import HitCounter
from hitledger.ledger import LedgerStore
from hitledger.middleware import CountHits
from hitledger.report import Reports
from hitledger.settings import Settings
from hitledger.testrun.runs import Runs
from hitledger.tracing import start_tracing
from hitledger.web.accesslog import observations_of
from hitledger.web.admin import build_admin_app, serve_admin
from hitledger.web.api import AnythingConverter, api_blueprint
from hitledger.web.audits import audit_api
from hitledger.web.auth import install_auth
from hitledger.web.dashboard import dashboard_blueprint
from hitledger.web.docs import docs_blueprint
from hitledger.web.health import health_api
from hitledger.web.limits import Limits
from hitledger.web.lost import install_lost_page
from hitledger.web.metrics import metrics_blueprint
from hitledger.web.observed import Observed
from hitledger.web.problems import Problem, install_problems, validation_failed
from hitledger.web.requests import install_request_checks
from hitledger.web.runs import SizeConverter, runs_api
from hitledger.web.safety import install_trusted_hosts, protect_pages
from hitledger.web.series import series_api
from hitledger.web.services import Services
from hitledger.web.stats import stats_api

if TYPE_CHECKING:
    from hitledger.tracing.spans import Tracing

DESCRIPTION = "Exact counts of every request that this service answers, by URL path."


def create_app(settings: Settings | None = None) -> Flask:
    """Build the service's WSGI application; its background posting starts here too.

    Raises:
        SettingsError: a setting is wrong. LedgerError: no ledger is set. ServiceError: the admin port cannot be had.
    """
    settings = settings or Settings.from_environment()
    store = LedgerStore(settings)
    counter = HitCounter(settings, store)
    services = Services(settings, store, counter, Reports(store, settings, apart=True), Runs(settings, store))
    app = build_app(services, start_tracing(settings))
    if settings.admin_port is not None:
        serve_admin(build_admin_app(services), settings.host, settings.admin_port)
    counter.start()
    return app


def build_app(services: Services, tracing: Tracing | None = None) -> Flask:
    """Put the endpoints together, around services that exist already."""
    app = OpenAPI(
        "hitledger.web",
        info=Info(title="hitledger", version=version("hitledger"), description=DESCRIPTION),
        doc_ui=False,
        validation_error_model=Problem,
        validation_error_callback=validation_failed,
        responses={"default": Problem},
        static_url_path="/static",
    )
    app.extensions["hitledger"] = services
    app.json.sort_keys = False  # type: ignore[attr-defined] # the default provider has it
    # Paths are counted as they come: no redirect to a slash, no folding of doubled ones.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.url_map.converters |= {"anything": AnythingConverter, "size": SizeConverter}
    if tracing:
        tracing.trace_app(app)
        tracing.trace_queue(services.runs.queue)
    install_request_checks(app, services.settings)
    install_trusted_hosts(app, services.settings)
    install_problems(app)
    install_lost_page(app)
    limits = Limits(services.settings)
    for pages in install_auth(app, services):
        limits.guard(pages)
        protect_pages(pages, services.settings)
        app.register_blueprint(pages)
    app.register_blueprint(docs_blueprint(app, services.settings))
    pages = dashboard_blueprint(services)
    limits.guard(pages)
    app.register_blueprint(pages)
    blueprints = [api_blueprint(), stats_api(services), series_api(services), audit_api(services), runs_api(services)]
    if services.settings.admin_port is None:
        app.register_blueprint(metrics_blueprint(services))
        blueprints.append(health_api(services))
    for blueprint in blueprints:
        limits.guard(blueprint)
        app.register_api(blueprint)
    counted = CountHits(app.wsgi_app, services.counter)
    app.wsgi_app = Observed(  # type: ignore[method-assign] # as Flask's docs do
        counted, observations_of(services.settings, services.counter.meters)
    )
    return app
