"""What `CountHits` and `CountHitsASGI` add to a request of the frameworks that people have, and to a start.

Each framework is asked in process with the least that a server hands over: bare, counted, and
counted by route as well. Every variant is asked once a round, in an order drawn anew. All of
them share one counter, which posts in the background, as an application's process has one.
What importing costs is told by fresh interpreters, beside those that import redis-py alone: in
processor time, which others on the machine stretch less than the clock's.
"""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple

import bottle
import falcon
from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bench.common import (
    Bar,
    Result,
    Spread,
    difference,
    interleaved,
    number,
    scratch,
    seconds_of,
    test_run_paths,
    valkey,
    wsgi_asker,
)
from hitledger import CountHits, CountHitsASGI, routes
from hitledger.counting import HitCounter
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from hitledger.asgi import Application, Message

MOST_ADDED_US = 15
MOST_IMPORT_MS = 100
IMPORTS = {
    "redis-py": "import redis",
    "CountHits": "import redis; from hitledger import CountHits",
    "CountHitsASGI": "import redis; from hitledger import CountHitsASGI",
}


class Framework(NamedTuple):
    """An application with one view, as its framework is without us, and one that says its route where a hook must."""

    bare: Any
    routed: Any
    route: routes.Route
    is_asgi: bool = False

    def counted(self, counter: HitCounter, *, by_route: bool) -> Any:
        """Return the application in our middleware."""
        middleware = CountHitsASGI if self.is_asgi else CountHits
        return middleware(self.routed, counter, route=self.route) if by_route else middleware(self.bare, counter)


def run(*, quick: bool) -> Result:
    """Measure requests, and imports."""
    result = Result(
        "What the middlewares add to a request, in microseconds",
        ["framework", "bare", "added", "middle half", "added with a route", "middle half "],
    )
    result.notes = [
        "Medians of what a variant takes more than the same framework bare in the same round.",
        "Added with a route includes the framework's hook, where it needs one (Falcon).",
    ]
    _measure_requests(result, rounds=1_000 if quick else 6_000)
    _measure_imports(result, rounds=11 if quick else 41)
    return result


def _measure_requests(result: Result, rounds: int) -> None:
    frameworks = _frameworks()
    paths = itertools.cycle(test_run_paths(1_000))
    with valkey() as server, scratch() as folder:
        settings = Settings(redis_url=server.url, data_dir=folder)
        counter = HitCounter(settings, LedgerStore(settings))
        environs, scopes = map(_environ, paths), map(_scope, paths)
        variants: dict[str, Callable[[], float]] = {}
        for name, framework in frameworks.items():
            asker, asked = (_asgi_asker, scopes) if framework.is_asgi else (wsgi_asker, environs)
            variants[name] = asker(framework.bare, asked)
            variants[f"{name}, counted"] = asker(framework.counted(counter, by_route=False), asked)
            variants[f"{name}, by route"] = asker(framework.counted(counter, by_route=True), asked)
        interleaved(variants, 100)
        found = interleaved(variants, rounds)
        counter.stop()
    for name in frameworks:
        counted, routed = (difference(found[f"{name}, {how}"], found[name]) for how in ("counted", "by route"))
        result.rows.append(
            [name, Spread.of(found[name]).middle, counted.middle, str(counted), routed.middle, str(routed)]
        )
        for what, added in (("", counted), (" with its route", routed)):
            result.bars.append(Bar(f"Added to {name}{what}", added.middle, MOST_ADDED_US, at_least=False))


def _measure_imports(result: Result, rounds: int) -> None:
    by_clock: dict[str, list[float]] = {name: [] for name in IMPORTS}

    def importing(name: str) -> Callable[[], float]:
        def start() -> float:
            began = perf_counter_ns()
            child = subprocess.Popen([sys.executable, "-c", IMPORTS[name]])
            _, status, used = os.wait4(child.pid, 0)
            by_clock[name].append((perf_counter_ns() - began) / 1e6)
            child.returncode = os.waitstatus_to_exitcode(status)
            assert child.returncode == 0
            return 1000 * (used.ru_utime + used.ru_stime)

        return start

    found = interleaved({name: importing(name) for name in IMPORTS}, rounds)
    base, *others = IMPORTS
    for name in others:
        added, waited = (difference(figures[name], figures[base]) for figures in (found, by_clock))
        what = f"Importing {name} beyond {base}, in ms of processor time"
        result.bars.append(Bar(what, added.middle, MOST_IMPORT_MS, at_least=False))
        result.notes.append(f"By the clock, importing {name} took {number(waited.middle)} ms more ({waited}).")


def _environ(path: str) -> WSGIEnvironment:
    """Return what PEP 3333 demands, and no more."""
    return {
        "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": "", "SERVER_NAME": "localhost",
        "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.version": (1, 0), "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr, "wsgi.multithread": True, "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }  # fmt: skip


def _asgi_asker(app: Application, scopes: Iterator[dict[str, Any]]) -> Callable[[], float]:
    """Return what `wsgi_asker` does, for ASGI: nothing here waits for anything, so that it needs no event loop."""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        assert message.get("status", 200) == 200, message

    def ask(scope: dict[str, Any]) -> None:
        try:
            app(scope, receive, send).send(None)  # type: ignore[attr-defined]
        except StopIteration:
            return
        raise AssertionError("the application waits for something")

    def timed() -> float:
        scope = next(scopes)
        return 1e6 * seconds_of(lambda: ask(scope))

    return timed


def _scope(path: str) -> dict[str, Any]:
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": [],
    }  # fmt: skip


def _frameworks() -> dict[str, Framework]:
    return {
        "Flask": Framework(_flask(), _flask(), routes.flask),
        "Falcon": Framework(_falcon(), _falcon(routes.Falcon()), routes.noted),
        "Bottle": Framework(_bottle(), _bottle(), routes.bottle),
        "Starlette": Framework(_starlette(), _starlette(), routes.starlette, is_asgi=True),
        "FastAPI": Framework(_fastapi(), _fastapi(), routes.starlette, is_asgi=True),
    }


def _flask() -> Flask:
    app = Flask(__name__)

    @app.get("/api/<path:rest>")
    def view(rest: str) -> str:
        return rest

    return app


def _falcon(*hooks: object) -> Any:
    class View:
        def on_get(self, req: falcon.Request, resp: falcon.Response, rest: str) -> None:
            del req
            resp.text = rest

    app: Any = falcon.App(middleware=list(hooks))  # type: ignore[arg-type] # a hook for WSGI and ASGI
    app.add_route("/api/{rest:path}", View())
    return app


def _bottle() -> Any:
    app = bottle.Bottle()

    @app.get("/api/<rest:path>")  # type: ignore[untyped-decorator]
    def view(rest: str) -> str:
        return rest

    return app


def _starlette() -> Starlette:
    async def view(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.path_params["rest"])

    return Starlette(routes=[Route("/api/{rest:path}", view)])


def _fastapi() -> FastAPI:
    app = FastAPI()

    @app.get("/api/{rest:path}", response_class=PlainTextResponse)
    async def view(rest: str) -> str:
        return rest

    return app
