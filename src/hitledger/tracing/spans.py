"""What OpenTelemetry's instrumentations are told, and the spans that they do not make.

Loaded only where traces are on. A test run may send a million requests: of each of its parts
the first `TRACED_REQUESTS` have spans of their own, and the others tell the service, by the
sampled bit of their `traceparent`, to make none either.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.util import Finalize
from typing import Any

import pycurl
from flask import Flask, request
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.zipkin.json import ZipkinExporter
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.propagate import inject
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.span import TraceState
from opentelemetry.util.types import Attributes

from hitledger.errors import SettingsError
from hitledger.paths import url_of
from hitledger.testrun.queue import PartQueue
from hitledger.tracing import TRACE_KEY

EXPORTERS: dict[str, type[SpanExporter]] = {
    "otlp": OTLPSpanExporter,
    "zipkin": ZipkinExporter,
    "zipkin_json": ZipkinExporter,
    "console": ConsoleSpanExporter,
}
TRACED_REQUESTS = 20
UNTRACED_URLS = "/livez$,/readyz$,/metrics$,/static/,/live/"
"""Asked for all the time; OTEL_PYTHON_FLASK_EXCLUDED_URLS names others."""
WITH_QUERY = {"url.query", "http.target", "http.url", "url.full"}
"""Attributes of a server's span that would hold the query, where clients may have put secrets."""


class Tracing:
    """The spans of this process; one a process, since OpenTelemetry's own state is global."""

    def __init__(self) -> None:
        os.environ.setdefault("OTEL_SERVICE_NAME", "hitledger")
        os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
        exporters = [make() for make in exporters_of(os.environ.get("OTEL_TRACES_EXPORTER") or "otlp")]
        provider = TracerProvider()
        provider.sampler = WithinTraces(provider.sampler)
        for exporter in exporters:
            provider.add_span_processor(BatchSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        self._provider = provider
        # A server's process that was forked off ends without the interpreter's own last calls.
        Finalize(provider, provider.shutdown, exitpriority=10)
        RedisInstrumentor().instrument(tracer_provider=provider)
        CeleryInstrumentor().instrument(tracer_provider=provider)  # type: ignore[no-untyped-call]

    def trace_app(self, app: Flask) -> None:
        """Make a span of each request. Called before anything else is hooked into the application."""
        FlaskInstrumentor.instrument_app(  # type: ignore[no-untyped-call]
            app,
            tracer_provider=self._provider,
            excluded_urls=os.environ.get("OTEL_PYTHON_FLASK_EXCLUDED_URLS") or UNTRACED_URLS,
            request_hook=_note_trace,
            response_hook=_tell_path_only,
            enable_commenter=False,
        )

    def trace_queue(self, queue: PartQueue) -> None:
        """Let Celery's instrumentation find the task, which it looks up in the process's default application."""
        with suppress(SettingsError):  # no server can be the broker: no task is ever sent
            queue.app.set_default()
            queue.know_task()

    def requests(self) -> RequestSpans | None:
        """Return what makes the spans of a part's requests; None where the part itself is in no trace."""
        parent = trace.get_current_span().get_span_context()
        return RequestSpans(self._provider.get_tracer("hitledger")) if parent.is_valid else None

    def fields(self) -> Mapping[str, str]:
        """Return the id of the trace that goes on now, for log lines."""
        found = trace.get_current_span().get_span_context()
        return {"trace_id": trace.format_trace_id(found.trace_id)} if found.is_valid else {}

    def close(self) -> None:
        """Send what there is, and no more."""
        self._provider.shutdown()


class RequestSpans:
    """The spans of the requests that one part of a test run sends, one by one or many at once."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self._left = TRACED_REQUESTS
        self._open: dict[pycurl.Curl, Span] = {}
        parent = trace.get_current_span().get_span_context()
        ids = trace.format_trace_id(parent.trace_id), trace.format_span_id(parent.span_id)
        self._not_sampled = ["traceparent: 00-{}-{}-00".format(*ids)]

    def begin(self, handle: pycurl.Curl, url: str) -> None:
        """Give a request that is about to be sent its place in the trace."""
        if self._left <= 0:
            handle.setopt(pycurl.HTTPHEADER, self._not_sampled)
            return
        self._left -= 1
        attributes = {"http.request.method": "GET", "url.full": url}
        span = self._open[handle] = self._tracer.start_span("GET", kind=SpanKind.CLIENT, attributes=attributes)
        headers: dict[str, str] = {}
        inject(headers, trace.set_span_in_context(span))
        handle.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in headers.items()])

    def end(self, handle: pycurl.Curl, status: int) -> None:
        """Note the answer's status, 0 where there was none."""
        span = self._open.pop(handle, None) if self._open else None
        if span is None:
            return
        if status:
            span.set_attribute("http.response.status_code", status)
        if not 200 <= status < 300:
            span.set_status(Status(StatusCode.ERROR))
        span.end()


class WithinTraces(Sampler):
    """Begins a trace with a request or a task only: the background's commands to the ledger are in none."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(  # noqa: PLR0913, PLR0917 - the parameters are OpenTelemetry's
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide as the sampler that was asked for, if a trace may begin here."""
        parent = trace.get_current_span(parent_context).get_span_context()
        if kind == SpanKind.CLIENT and not parent.is_valid:
            return SamplingResult(Decision.DROP)
        return self._sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """Return what a reader of the configuration sees."""
        return f"WithinTraces({self._sampler.get_description()})"


def exporters_of(names: str) -> list[type[SpanExporter]]:
    """Return the exporters that OTEL_TRACES_EXPORTER names.

    Raises:
        SettingsError: there is no such exporter here.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip() != "none"]
    for name in wanted:
        if name not in EXPORTERS:
            raise SettingsError(
                f"OTEL_TRACES_EXPORTER={name!r} is not allowed.", "It takes none and " + ", ".join(EXPORTERS) + "."
            )
    return [EXPORTERS[name] for name in wanted]


def _note_trace(span: Span, environ: dict[str, Any]) -> None:
    environ[TRACE_KEY] = trace.format_trace_id(span.get_span_context().trace_id)


def _tell_path_only(span: Span, _status: str, _headers: object) -> None:
    path = url_of((request.environ.get("SCRIPT_NAME", "") + request.environ["PATH_INFO"]).encode("latin-1", "replace"))
    for name in WITH_QUERY & set(getattr(span, "attributes", None) or ()):
        span.set_attribute(name, path)
    span.set_attribute("url.path", path)
