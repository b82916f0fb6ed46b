"""middleware: every answered request counts once, under its path, before the client sees a byte."""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any
from wsgiref.handlers import SimpleHandler

import pytest
from flask import Flask, Response, abort, request
from werkzeug.middleware.lint import LintMiddleware
from werkzeug.test import Client, create_environ, run_wsgi_app

from hitledger import routes
from hitledger.counting import HitCounter
from hitledger.journal import JournalWriter
from hitledger.ledger import LedgerStore
from hitledger.middleware import REFUSAL_BODY, CountHits
from hitledger.settings import Settings
from tests.books import counts_of, routes_of

App = Callable[..., Iterable[bytes]]


@pytest.fixture
def counter(settings: Settings) -> Iterator[HitCounter]:
    """A counter with a journal and a ledger of its own."""
    counter = HitCounter(settings, LedgerStore(settings))
    yield counter
    counter.stop()


def counts(counter: HitCounter) -> Counter[str]:
    """Return what the ledger holds by URL and by line."""
    counter.post_now()
    store = counter.store
    return Counter(counts_of(store)) + Counter(store.totals().lines)


def flask_app() -> Flask:
    """An application that answers in many ways."""
    app = Flask(__name__)

    @app.route("/ok/<path:rest>", methods=["GET", "POST"])
    def ok(rest: str) -> str:
        return rest

    @app.get("/crash")
    def crash() -> str:
        raise RuntimeError("boom")

    @app.get("/refused")
    def refused() -> str:
        abort(403)

    @app.get("/stream")
    def stream() -> Response:
        return Response(iter(["a", "b"]))

    @app.get("/broken-stream")
    def broken_stream() -> Response:
        def chunks() -> Iterator[str]:
            yield "a"
            raise RuntimeError("boom")

        return Response(chunks())

    return app


def test_every_way_of_answering_counts_once(counter: HitCounter) -> None:
    """Any method, any outcome: one request is one hit; 404 and 405 share a line."""
    app = flask_app()

    @app.before_request
    def refuse_strangers() -> None:
        if request.path == "/ok/early":
            abort(401)

    client = Client(CountHits(app.wsgi_app, counter))
    answers = [
        client.get("/ok/early"),  # answered by a hook, no view ever ran
        client.get("/ok/a?b=c"),
        client.head("/ok/a"),
        client.options("/ok/a"),
        client.post("/ok/a", data="x"),
        client.get("/crash"),
        client.get("/refused"),
        client.get("/stream"),
        client.get("/nothing"),
        client.delete("/ok/a"),
    ]
    assert [answer.status_code for answer in answers] == [401, 200, 200, 200, 200, 500, 403, 200, 404, 405]
    with pytest.raises(RuntimeError, match="boom"):
        client.get("/broken-stream", buffered=True)
    assert counts(counter) == {
        "/ok/early": 1, "/ok/a": 4, "/crash": 1, "/refused": 1, "/stream": 1, "/broken-stream": 1, "(unmatched)": 2,
    }  # fmt: skip


def test_unmatched_requests_count_by_path_where_asked(settings: Settings) -> None:
    """A setting keeps 404s apart by path."""
    counter = HitCounter(replace(settings, count_unmatched=True), LedgerStore(settings))
    Client(CountHits(flask_app(), counter)).get("/nothing")
    assert counts(counter) == {"/nothing": 1}
    counter.stop()


def test_the_record_is_there_before_the_first_byte(counter: HitCounter) -> None:
    """When the server is handed the start of the response, the hit is in the journal already."""
    seen: list[int] = []

    def start_response(*_: Any) -> Callable[[bytes], None]:
        seen.append(sum(path.stat().st_size for path in counter.settings.journal_dir.glob("*.journal")))
        return lambda _: None

    list(CountHits(flask_app(), counter)(create_environ("/ok/a"), start_response))
    assert seen[0] > 256


def test_a_path_is_its_bytes(counter: HitCounter) -> None:
    """Escapes, bytes that are no UTF-8, slashes and mount points come out as one canonical URL."""
    app = CountHits(flask_app(), counter)
    for path_info, script_name in [("/ok/a b", ""), ("/ok/\xff", ""), ("/ok//x/", ""), ("/ok/x", "/mounted")]:
        environ = create_environ() | {"PATH_INFO": path_info, "SCRIPT_NAME": script_name}
        run_wsgi_app(app, environ)
    assert counts(counter) == {"/ok/a%20b": 1, "/ok/%FF": 1, "/ok//x/": 1, "/mounted/ok/x": 1}


def test_a_long_path_counts_as_oversized(counter: HitCounter) -> None:
    """A path over the limit makes no key of its own."""
    client = Client(CountHits(flask_app(), counter))
    client.get("/ok/" + "x" * 2044)
    client.get("/ok/" + "x" * 2045)
    assert counts(counter) == {"/ok/" + "x" * 2044: 1, "(oversized)": 1}


def test_health_and_static_files_do_not_count(counter: HitCounter) -> None:
    """What the settings list is answered and not counted, and no header of a client changes that."""
    client = Client(CountHits(flask_app(), counter))
    for path in ("/livez", "/static/x.css", "/static/", "/livez/", "/ok/livez"):
        client.get(path, headers={"X-Count": "no"})
    assert counts(counter) == {"(unmatched)": 1, "/ok/livez": 1}


def late_app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    """An application that starts its response when its body is read."""
    del environ
    start_response("404 Not Found", [])
    yield b"late"


def crashing_late_app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    """An application that crashes when its body is read."""
    del environ, start_response
    raise RuntimeError("boom")
    yield b""


def crashing_app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """An application that crashes at once."""
    del environ, start_response
    raise RuntimeError("boom")


@pytest.mark.parametrize(
    ("app", "expected"), [(late_app, "(unmatched)"), (crashing_late_app, "/x"), (crashing_app, "/x")]
)
def test_applications_that_are_not_flask(counter: HitCounter, app: App, expected: str) -> None:
    """One that starts its response only when its body is read counts too, and one that never does."""
    wrapped = CountHits(app, counter)
    if app is late_app:
        body, status, _ = run_wsgi_app(wrapped, create_environ("/x"))
        assert (b"".join(body), status) == (b"late", "404 Not Found")
    else:
        with pytest.raises(RuntimeError):
            list(wrapped(create_environ("/x"), lambda *_: lambda _: None))
    assert counts(counter) == {expected: 1}


class BrokenJournal(JournalWriter):
    """A journal that cannot be written, and knows it only after the first try."""

    tried = False

    def append(self, kind: bytes, path: bytes, hits: int = 1, route: bytes = b"") -> bool:
        """Lose the hit."""
        del kind, path, route
        self.tried = True
        self.lost += hits
        return False

    @property
    def writable(self) -> bool:
        """False once a hit was lost."""
        return not self.tried


@pytest.mark.parametrize("app", [flask_app().wsgi_app, late_app])
def test_a_service_that_would_rather_not_serve_answers_503(settings: Settings, app: App) -> None:
    """With on_journal_failure=refuse, no request is answered that could not be counted."""
    settings = replace(settings, on_journal_failure="refuse")
    counter = HitCounter(settings, LedgerStore(settings))
    counter.journal = BrokenJournal(settings.journal_dir)
    client = Client(CountHits(app, counter))
    for _ in range(2):  # one that fails while it is noted, one that is not begun
        answer = client.get("/ok/a")
        assert (answer.status_code, answer.mimetype) == (503, "application/problem+json")
        assert answer.headers["Retry-After"] == "1"
    assert counter.journal.lost == 1
    counter.stop()


def test_a_service_that_serves_on_answers_and_tallies(settings: Settings) -> None:
    """By default a journal that cannot be written stands in nobody's way."""
    counter = HitCounter(settings, LedgerStore(settings))
    counter.journal = BrokenJournal(settings.journal_dir)
    assert Client(CountHits(flask_app(), counter)).get("/ok/a").status_code == 200
    assert counter.journal.lost == 1
    counter.stop()


def writing_app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """An application of the old kind, that writes its answer."""
    del environ
    start_response("200 OK", [("Content-Type", "text/plain")])(b"written")
    return []


def mending_app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """An application that begins an answer, fails, and puts an error's in its place."""
    del environ
    start_response("200 OK", [("Content-Type", "text/plain")])
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        start_response("500 Internal Server Error", [("Content-Type", "text/plain")], sys.exc_info())
    return [b"mended"]


def bodiless_app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """An application whose answer has no body."""
    del environ
    start_response("204 No Content", [("Content-Length", "0")])  # as the linter wants it
    return []


def linted_late_app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    """An application that starts its response when its body is read, with the headers that a linter wants."""
    del environ
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"late"


FLASK = flask_app().wsgi_app
KINDS: list[tuple[App, str, str, int, str | None]] = [
    (FLASK, "GET", "/ok/a", 200, "/ok/a"),
    (FLASK, "HEAD", "/stream", 200, "/stream"),
    (FLASK, "OPTIONS", "/ok/a", 200, "/ok/a"),
    (FLASK, "GET", "/stream", 200, "/stream"),
    (FLASK, "GET", "/nothing", 404, "(unmatched)"),
    (FLASK, "DELETE", "/ok/a", 405, "(unmatched)"),
    (FLASK, "GET", "/refused", 403, "/refused"),
    (FLASK, "GET", "/crash", 500, "/crash"),
    (FLASK, "GET", "/ok/" + "x" * 2048, 200, "(oversized)"),
    (FLASK, "GET", "/livez", 404, None),
    (bodiless_app, "GET", "/x", 204, "/x"),
    (mending_app, "GET", "/x", 500, "/x"),
    (writing_app, "GET", "/x", 200, "/x"),
    (linted_late_app, "GET", "/x", 200, "/x"),
]
"""Applications, what they are asked, their answer's status, and where it counts."""


class StrictHandler(SimpleHandler):
    """The standard library's server for one request; it hides no exception."""

    def handle_error(self) -> None:
        """Let it be seen."""
        raise  # noqa: PLE0704 - it is called where an exception is handled


def serve(app: App, path: str, method: str = "GET") -> bytes:
    """Have a strict server answer one request; return all that it wrote."""
    written = io.BytesIO()
    StrictHandler(io.BytesIO(), written, io.StringIO(), create_environ(path, method=method)).run(LintMiddleware(app))
    return written.getvalue()


@pytest.mark.parametrize(("app", "method", "path", "status", "counted"), KINDS)
def test_lint_middleware_has_no_complaint(
    counter: HitCounter, app: App, method: str, path: str, status: int, counted: str | None
) -> None:
    """Between a strict server and a strict application nothing about WSGI is bent: a warning would fail this."""
    answer = serve(CountHits(LintMiddleware(app), counter, route=lambda _: "/route/"), path, method)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 %d " % status)
    assert bool(body) == (method not in ("HEAD", "OPTIONS") and status != 204)
    assert counts(counter) == ({counted: 1} if counted else {})


@pytest.mark.parametrize("app", [FLASK, linted_late_app])
def test_lint_middleware_has_no_complaint_of_a_refusal(settings: Settings, app: App) -> None:
    """The answer that stands in for what cannot be counted is well formed too."""
    counter = HitCounter(replace(settings, on_journal_failure="refuse"), LedgerStore(settings))
    counter.journal = BrokenJournal(settings.journal_dir)
    for _ in range(2):  # one that fails while it is noted, one that is not begun
        answer = serve(CountHits(app, counter), "/ok/a")
        assert answer.startswith(b"HTTP/1.0 503 ")
        assert answer.endswith(REFUSAL_BODY)
    counter.stop()


@pytest.mark.parametrize("path", ["/broken-stream", "/late"])
def test_lint_middleware_has_no_complaint_of_a_crash(counter: HitCounter, path: str) -> None:
    """An application that breaks off, before its answer or in the middle of it, is broken off and nothing else."""
    app = crashing_late_app if path == "/late" else FLASK
    with pytest.raises(RuntimeError, match="boom"):
        serve(CountHits(LintMiddleware(app), counter), path)
    assert counts(counter) == {path: 1}


def test_a_route_is_counted_beside_its_path(counter: HitCounter) -> None:
    """A request counts under its URL or line, and under its route where the framework knows one."""
    client = Client(CountHits(flask_app().wsgi_app, counter, route=routes.flask))
    for path in ("/ok/a", "/ok/b", "/crash", "/nothing", "/ok/" + "x" * 2048):
        client.get(path)
    assert counts(counter) == {"/ok/a": 1, "/ok/b": 1, "/crash": 1, "(unmatched)": 1, "(oversized)": 1}
    assert routes_of(counter.store) == {"/ok/<path:rest>": 3, "/crash": 1}


def test_a_route_that_cannot_be_found_costs_no_answer(counter: HitCounter) -> None:
    """Whatever is wrong with a route, the request is answered and counted."""

    def failing(environ: Any) -> str:
        raise KeyError(environ["PATH_INFO"])

    client = Client(CountHits(flask_app().wsgi_app, counter, route=failing))
    assert [client.get("/ok/a").status_code for _ in range(2)] == [200, 200]
    assert counts(counter) == {"/ok/a": 2}
    assert routes_of(counter.store) == {}


def test_a_client_that_goes_away_has_been_counted(counter: HitCounter) -> None:
    """A server that closes the body in the middle of an answer closes the application's, and the hit stays."""
    closed: list[bool] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"a", b"b"])

        def close(self) -> None:
            closed.append(True)

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        del environ
        start_response("200 OK", [])
        return Body()

    body = CountHits(app, counter)(create_environ("/x"), lambda *_: lambda _: None)
    assert next(iter(body)) == b"a"
    body.close()  # type: ignore[attr-defined]
    assert closed == [True]
    assert counts(counter) == {"/x": 1}
