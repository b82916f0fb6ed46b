"""tracing: a test run is one trace from end to end; and while traces are off, nothing of them is there."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hitledger.errors import SettingsError
from hitledger.serve import answers_http
from hitledger.settings import Settings
from hitledger.tracing import start_tracing
from hitledger.tracing.spans import TRACED_REQUESTS, exporters_of
from tests.credentials import bearer
from tests.ports import free_port
from tests.processes import Running
from tests.receiver import ReceivedSpan, Receiver
from tests.support import Valkey, wait_until
from tests.testruns import environment_of

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@contextmanager
def traced(settings: Settings, **variables: str) -> Iterator[tuple[int, list[Running]]]:
    """Run web processes and a worker that send their spans soon; yields the port and the programs."""
    port = free_port()
    settings = replace(settings, port=port, workers=2, traces=True, access_log=True)
    environment = {**environment_of(settings), "OTEL_BSP_SCHEDULE_DELAY": "50", **variables}
    ours = [sys.executable, "-m", "hitledger"]
    with Running([*ours, "web"], environment) as web, Running([*ours, "worker"], environment) as worker:
        wait_until(lambda: answers_http(Settings(port=port)))
        worker.line_with("takes test runs")
        yield port, [web, worker]


def ask(port: int, path: str, method: str = "GET", **headers: str) -> Any:
    """Ask the service and return the JSON of its answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_a_test_run_is_one_trace(settings: Settings, token: str | None) -> None:
    """From the POST over the queue and the worker to the answered GETs, every span is in its caller's place."""
    with Receiver() as receiver:
        # Spans wait for a minute, or for the end of their process.
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "60000"}
        with traced(settings, **variables) as (port, programs):
            parent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            run = ask(port, f"/test/{TRACED_REQUESTS + 30}/?", "POST", Prefer="wait=60", **parent, **bearer(token))
            assert run["succeeded"] == TRACED_REQUESTS + 30
            ask(port, "/stats/?limit=7", **bearer(token))
            web, worker = programs
            assert worker.end() == 0
            assert web.end() == 0
            output = [json.loads(line) for line in web.output().splitlines()]
            worker_output = [json.loads(line) for line in worker.output().splitlines()]
        spans = receiver.spans
        (post,) = [span for span in spans if span.name.startswith("POST")]
        assert (post.trace, post.parent, post.kind, post.service) == (TRACE, PARENT, "SERVER", "hitledger")
        assert post.attributes["http.route"] == "/test/<size:n>/"
        below = receiver.children_of(post)
        assert {span.kind for span in below} == {"CLIENT", "PRODUCER"}
        (sent,) = [span for span in below if span.kind == "PRODUCER"]
        (task,) = [span for span in receiver.children_of(sent) if span.kind == "CONSUMER"]
        assert "hitledger.run_part" in task.name
        requests = [span for span in receiver.children_of(task) if span.name == "GET"]
        check_requests(receiver, requests)
        commands = [span for span in receiver.children_of(task) if span.name != "GET"]
        assert any(span.attributes.get("db.system") == "redis" for span in commands)
        # What nobody asked for is in no trace, and each trace begins with a request.
        assert {span.name for span in spans if not span.parent} == {"GET /stats/"}
        assert not any("limit=7" in str(span.attributes) for span in spans)
        lines = [line for line in output if line.get("path", "").startswith("/api/")]
        assert len(lines) == TRACED_REQUESTS + 30
        assert {line["trace_id"] for line in lines} == {TRACE}
        (ended,) = [line for line in [*output, *worker_output] if line["event"] == "a test run has ended"]
        assert ended["trace_id"] == TRACE


def check_requests(receiver: Receiver, requests: list[ReceivedSpan]) -> None:
    """See that the first requests have spans, each with the service's own below it, and the others have none."""
    assert len(requests) == TRACED_REQUESTS
    for request in requests:
        assert (request.kind, request.attributes["http.response.status_code"]) == ("CLIENT", 200)
        (answered,) = receiver.children_of(request)
        assert (answered.name, answered.kind) == ("GET /api/<anything:rest>", "SERVER")
        assert answered.attributes["url.path"] in request.attributes["url.full"]
    everything = [span for span in receiver.spans if span.name.startswith("GET /api/")]
    assert len(everything) == TRACED_REQUESTS


@pytest.mark.slow
def test_zipkin_is_spoken_too(settings: Settings, token: str | None) -> None:
    """By its own variables the same spans go out as Zipkin's JSON."""
    with Receiver() as receiver:
        variables = {
            "OTEL_TRACES_EXPORTER": "zipkin", "OTEL_EXPORTER_ZIPKIN_ENDPOINT": f"{receiver.url}/api/v2/spans",
            "OTEL_SERVICE_NAME": "books",
        }  # fmt: skip
        with traced(settings, **variables) as (port, _):
            run = ask(port, "/test/3/", "POST", Prefer="wait=60", **bearer(token))
            assert run["succeeded"] == 3
            wait_until(lambda: len([span for span in receiver.spans if span.name == "GET /api/<anything:rest>"]) == 3)
            wait_until(lambda: any(span.kind == "CONSUMER" for span in receiver.spans))
        assert {span.service for span in receiver.spans} == {"books"}
        answered = [span for span in receiver.spans if span.name == "GET /api/<anything:rest>"]
        sent = {span.id: span for span in receiver.spans if span.name == "GET"}
        (task,) = {sent[span.parent].parent for span in answered}
        assert [span.kind for span in receiver.spans if span.id == task] == ["CONSUMER"]


OFF = """
import sys
import redis.observability.providers, redis.asyncio, redis.cluster
before = set(sys.modules)
from pathlib import Path
from hitledger.settings import Settings
from hitledger.web import create_app
import hitledger.testrun.tasks, hitledger.cli.worker, hitledger.webserver
app = create_app(Settings(redis_url=sys.argv[1], data_dir=Path(sys.argv[2]), key_prefix="test-off", access_log=True))
assert app.test_client().get("/api/x/").status_code == 200
app.extensions["hitledger"].counter.stop()
print([name for name in set(sys.modules) - before if name.startswith("opentelemetry")])
"""


@pytest.mark.slow
def test_off_nothing_is_loaded(valkey: Valkey, tmp_path: Path) -> None:
    """While traces are off, we import nothing of OpenTelemetry; redis-py looks at what is installed by itself."""
    with Running([sys.executable, "-c", OFF, valkey.url, str(tmp_path)], {"OTEL_TRACES_EXPORTER": "otlp"}) as program:
        assert program.process.wait(60) == 0
        assert program.output().splitlines()[-1] == "[]"
    assert start_tracing(Settings()) is None


def test_what_is_wrong_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exporter that there is not, and a package that is not installed, stop the start with what to do."""
    with pytest.raises(SettingsError, match=r"OTEL_TRACES_EXPORTER='jaeger' is not allowed\. It takes none and otlp"):
        exporters_of("otlp,jaeger")
    assert exporters_of("none") == []
    monkeypatch.setitem(sys.modules, "hitledger.tracing.spans", None)
    with pytest.raises(SettingsError, match=r"Install hitledger\[tracing\]"):
        start_tracing(Settings(traces=True))
