"""What counting adds to one Flask request, in process, beside other ways to count.

Every variant is a Flask application of its own, asked as a server asks it: a whole `environ`,
the body read and closed. Each round asks each variant once, in an order drawn anew, so that
every one finds the caches as the others left them. A hot loop would show a third of the cost.
"""

from __future__ import annotations

import io
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any
from zlib import crc32

import redis
from flask import Flask, Response, jsonify, request
from flask_limiter import Limiter
from prometheus_client import CollectorRegistry
from prometheus_flask_exporter import PrometheusMetrics

from bench.common import (
    Bar,
    Result,
    Spread,
    difference,
    interleaved,
    scratch,
    seconds_of,
    test_run_paths,
    valkey,
    wsgi_asker,
)
from hitledger import CountHits
from hitledger.counting import HitCounter
from hitledger.journal import JournalWriter
from hitledger.ledger import LedgerStore
from hitledger.meters import Meters
from hitledger.settings import Settings
from hitledger.web.accesslog import AccessLog
from hitledger.web.observed import Entry, Observations, Observed

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

MOST_ADDED_US = 15
MOST_ALL_US = 25
TIMES_LESS_THAN_ZINCRBY = 20


def run(*, quick: bool) -> Result:
    """Measure every variant, and the steps of `CountHits` one upon the other."""
    rounds = 1_000 if quick else 6_000
    with ExitStack() as stack:
        server = stack.enter_context(valkey())
        no_disk = stack.enter_context(valkey("--appendonly", "no"))
        folder = stack.enter_context(scratch())
        peers = _peers(str(server.socket), str(no_disk.socket))
        peers["CountHits, posting in the background"] = stack.enter_context(_counted(folder / "a", server.url))
        peers["CountHits, nothing in the background"] = stack.enter_context(_counted(folder / "b", None))
        observed = stack.enter_context(_observed(folder / "observed", server.url))
        steps = stack.enter_context(_steps(folder / "steps"))
        paths = test_run_paths(1_000)
        bare = {"bare Flask": _flask()}
        variants = {
            name: wsgi_asker(app, map(_environ, itertools.cycle(paths)))
            for name, app in (bare | peers | observed | steps).items()
        }
        interleaved(variants, 100)
        found = interleaved(variants, rounds)
        behind = _behind(folder / "behind", rounds // 20)
    result = _result(found, list(peers), list(observed), list(steps))
    _add_everything(result, found, list(observed)[-1], behind)
    return result


def _add_everything(result: Result, found: dict[str, list[float]], all_of_it: str, behind: dict[str, float]) -> None:
    """Add what the service does in all, with what it leaves to its background."""
    added = difference(found[all_of_it], found["bare Flask"])
    rows: list[list[str | float]] = [
        ["metrics, log and CountHits", Spread.of(found[all_of_it]).middle, added.middle, str(added)]
    ]
    rows += [[f"  in the background: {name}", "", microseconds, ""] for name, microseconds in behind.items()]
    result.rows += rows
    total = added.middle + sum(behind.values())
    result.bars.append(
        Bar("All that the service adds to a request, in microseconds", total, MOST_ALL_US, at_least=False)
    )


def _result(found: dict[str, list[float]], peers: list[str], observed: list[str], steps: list[str]) -> Result:
    bare = found["bare Flask"]
    result = Result(
        "What counting adds to one Flask request, in microseconds",
        ["variant", "request takes", "added", "middle half of added"],
        [["bare Flask", Spread.of(bare).middle, "", ""]],
    )
    added = {name: difference(found[name], bare) for name in [*peers, *observed, *steps]}
    for name in peers:
        result.rows.append([name, Spread.of(found[name]).middle, added[name].middle, str(added[name])])
    for kind, names in (("share", observed), ("step", steps)):
        before = 0.0
        for name in names:
            middle = added[name].middle
            result.rows.append([f"  {kind}: {name}", "", middle - before, ""])
            before = middle
    counting = added["CountHits, posting in the background"].middle
    times = added["ZINCRBY in the view, appendfsync always"].middle / counting
    result.bars = [
        Bar("CountHits adds, in microseconds", counting, MOST_ADDED_US, at_least=False),
        Bar("ZINCRBY into a ledger as durable as ours adds so many times as much", times, TIMES_LESS_THAN_ZINCRBY),
    ]
    result.notes = [
        f"Medians over {len(bare):,} rounds of what each variant takes more than bare Flask in the same round.",
        "Shares are what each part of the service adds to those before it; the access log goes to a file.",
        "What metrics and access log leave to the background is timed there, a request, in turns of 100.",
        "Steps are what each step of CountHits adds to those before it; their sum is a journal without a lock.",
    ]
    return result


def _environ(path: str) -> WSGIEnvironment:
    """Return what a server hands over for one request of a browser."""
    return {
        "SERVER_SOFTWARE": "Granian",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "5000",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "40312",
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "page=2",
        "HTTP_HOST": "127.0.0.1:5000",
        "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        "HTTP_ACCEPT": "application/json,text/html;q=0.9,*/*;q=0.8",
        "HTTP_ACCEPT_LANGUAGE": "en-GB,en;q=0.5",
        "HTTP_ACCEPT_ENCODING": "gzip, deflate, br, zstd",
        "HTTP_CONNECTION": "keep-alive",
        "HTTP_COOKIE": "theme=dark; session=5d41402abc4b2a76b9719d911017c592",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }


def _flask(note: Callable[[str], object] | None = None) -> Flask:
    """Return an application with one view, which notes its path first where it is to."""
    app = Flask(__name__)

    @app.get("/api/<path:rest>")
    def view(rest: str) -> Response:
        if note:
            note(request.path)
        return jsonify(url=rest)

    return app


def _peers(durable: str, no_disk: str) -> dict[str, WSGIApplication]:
    """Return the other ways; `durable` is a server like the ledger's, the other one waits for no disk."""
    client = redis.Redis(unix_socket_path=durable)
    hasty_client = redis.Redis(unix_socket_path=no_disk)
    exporting = _flask()
    PrometheusMetrics(exporting, group_by="path", registry=CollectorRegistry())
    limited = _flask()
    Limiter(
        lambda: request.path,
        app=limited,
        default_limits=["1000000000 per day"],
        storage_uri=f"redis+unix://{no_disk}",
    )
    return {
        "ZINCRBY in the view, appendfsync always": _flask(lambda path: client.zincrby("hits", 1, path)),
        "ZINCRBY in the view, nothing on disk": _flask(lambda path: hasty_client.zincrby("hits", 1, path)),
        "Flask-Limiter on Redis, nothing on disk": limited,
        "prometheus-flask-exporter by path": exporting,
    }


@contextmanager
def _counted(folder: Path, url: str | None) -> Iterator[CountHits]:
    """A counted application; without a ledger's address nothing runs beside its requests."""
    settings = Settings(redis_url=url or "unix:///nowhere", data_dir=folder)
    counter = HitCounter(settings, LedgerStore(settings))
    if url is None:
        counter.journal._on_open = lambda: None  # noqa: SLF001 - the poster would start here
    yield CountHits(_flask(), counter)
    if url is None:
        counter.journal.close()
    else:
        counter.stop()


@contextmanager
def _observed(folder: Path, url: str) -> Iterator[dict[str, WSGIApplication]]:
    """What the service does beside answering, part upon part, as `web.build_app` puts it together."""
    folder.mkdir()
    log = os.open(folder / "access.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    meters = Meters(folder / "meters")
    measured, logged = Observations(meters), Observations(meters)
    access_log = AccessLog(log, logged.digest, console=False)
    logged.log = access_log.take
    access_log.start()
    with _counted(folder / "data", url) as counted:
        counted.counter.meters.feed(measured.digest)
        yield {
            "metrics": Observed(_flask(), measured),
            "access log": Observed(_flask(), logged),
            "counting": Observed(counted, logged),
        }
    logged.digest()
    access_log.flush()  # else its thread finds the descriptor closed, or another file's
    meters.close()
    os.close(log)


def _behind(folder: Path, turns: int) -> dict[str, float]:
    """Return the microseconds a request that measuring and logging take in the background."""
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    meters = Meters(folder)
    observations = Observations(meters)
    access_log = AccessLog(log, lambda: None, console=False)
    access_log._pid = os.getpid()  # noqa: SLF001 - its thread would take the lines away
    entries = [
        Entry("GET", "200", "/api/<path:rest>", 400_000, 1, path, "127.0.0.1", "", None, "", None, "")
        for path in test_run_paths(100)
    ]

    def measure() -> float:
        for each in entries:
            observations.note(each)
        return 1e6 * seconds_of(observations.digest) / len(entries)

    def write() -> float:
        began = perf_counter_ns()
        access_log.take(entries)
        access_log.flush()
        return (perf_counter_ns() - began) / 1000 / len(entries)

    found = interleaved({"metrics": measure, "access log": write}, turns)
    meters.close()
    os.close(log)
    return {name: Spread.of(times).middle for name, times in found.items()}


@contextmanager
def _steps(folder: Path) -> Iterator[dict[str, WSGIApplication]]:
    """The steps that any journalling middleware takes, each with all those before it."""
    folder.mkdir()
    writer = JournalWriter(folder)
    writer.append(b"h", b"/")
    fd = writer._fd  # noqa: SLF001 - where the records go
    write, now = writer._write, writer._now  # noqa: SLF001

    def encode(path: str) -> object:
        return path.encode("latin-1", "replace")

    def stamp(path: str) -> object:
        return path.encode("latin-1", "replace"), int(now())

    def checksum(path: str) -> object:
        text = path.encode("latin-1", "replace")
        return int(now()), crc32(text)

    def record(path: str) -> bytes:
        body = b"%08x%b%b" % (int(now()), b"h", path.encode("latin-1", "replace"))
        return b"\n%08x%b" % (crc32(body), body)

    def whole(path: str) -> object:
        return write(fd, record(path))

    named: dict[str, Callable[[str], object]] = {
        "a closure around start_response": lambda _: None,
        "the path's bytes": encode,
        "the time": stamp,
        "the checksum": checksum,
        "formatting the record": record,
        "write(2)": whole,
    }
    bare: dict[str, WSGIApplication] = {"a bare wrapper": _Wrapper(_flask())}
    yield bare | {name: _Noting(_flask(), note) for name, note in named.items()}
    writer.close()


class _Wrapper:
    """A middleware that does nothing."""

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return self._app(environ, start_response)


class _Noting(_Wrapper):
    """A middleware that does something with the path when the response starts."""

    def __init__(self, app: WSGIApplication, note: Callable[[str], object]) -> None:
        super().__init__(app)
        self._note = note

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")

        def noting(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            self._note(path)
            return start_response(status, headers, *exc_info)

        return self._app(environ, noting)
