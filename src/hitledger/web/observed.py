"""What is measured and logged of every request: its route, status and duration.

`Observed` wraps the whole application, counting included, and works when an answer is closed,
after its last byte was handed to the server. It knows requests by their route, of which there
are few, and never by their path, of which there are as many as clients can think of.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from hitledger.logs import is_for_console
from hitledger.meters import Meters
from hitledger.paths import url_of
from hitledger.settings import Settings
from hitledger.web.requests import request_id_of, trace_id_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED_ROUTE = "(unmatched)"
ROW = "http "
"""How the names of these rows begin; method, status and route follow."""
STANDARD_ERROR = 2
MOST_MIDDLES = 1000
_ADDRESS = re.compile(r"[0-9A-Za-z:.%-]{1,64}")
_PLAIN = re.compile(r"[A-Za-z0-9/._~-]+")
"""Most paths: as they are, they are their own URL."""
MOST_PATH = 1024
"""Bytes of a path that are logged: then a line is one write to a pipe, which no other process's line breaks up."""


class Answer:
    """The body of an answer, and what is known of its request."""

    __slots__ = ("_began", "_body", "_notes", "_start_response", "environ", "route", "status", "took_ns")

    def __init__(self, notes: tuple[Note, ...], environ: WSGIEnvironment, start_response: StartResponse) -> None:
        self._began = perf_counter_ns()
        self._notes = notes
        self._start_response = start_response
        self._body: Iterable[bytes] = ()
        self.environ = environ
        self.route = UNMATCHED_ROUTE
        """The application's rule that matched, as `/stats/` or `/test/runs/<id>/`."""
        self.status = "500"
        """The three digits."""
        self.took_ns = 0

    def begin(self, app: WSGIApplication) -> None:
        """Have the application answer, up to the body."""
        self._body = app(self.environ, self._answered)

    def _answered(self, status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
        self.status = status[:3]
        # Only until the application is done does werkzeug keep its request here.
        rule = getattr(self.environ.get("werkzeug.request"), "url_rule", None)
        if rule is not None:
            self.route = rule.rule
        return self._start_response(status, headers, *exc_info)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        """Let the application clean up, and tell what is known now."""
        try:
            close = getattr(self._body, "close", None)
            if close:
                close()
        finally:
            self.took_ns = perf_counter_ns() - self._began
            for note in self._notes:
                note(self)


Note = Callable[[Answer], None]


class Observed:
    """Wrap a WSGI application so that each answer is shown to `notes` when it is done."""

    def __init__(self, app: WSGIApplication, notes: tuple[Note, ...]) -> None:
        self._app = app
        self.notes = notes

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        answer = Answer(self.notes, environ, start_response)
        try:
            answer.begin(self._app)
        except BaseException:
            answer.status = "500"
            answer.close()
            raise
        return answer


def observers(meters: Meters, settings: Settings) -> tuple[Note, ...]:
    """Return what observes the service's requests: numbers always, lines where they are asked for."""
    notes: list[Note] = [RequestMeters(meters).note]
    if settings.access_log:
        notes.append(AccessLog(STANDARD_ERROR, console=is_for_console(settings)).note)
    return tuple(notes)


class RequestMeters:
    """How many requests each route answered, and how long they took."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters

    def note(self, answer: Answer) -> None:
        """Add one request to its row."""
        method = answer.environ["REQUEST_METHOD"]
        name = f"{ROW}{method if method in METHODS else 'other'} {answer.status} {answer.route}"
        self._meters.observe(name, answer.took_ns)


class AccessLog:
    """A line for each request, written as a whole.

    The lines look as the others do (`hitledger.logs`), but are put together by hand: logging
    and structlog would take as long as counting, metrics and this together. The path stands
    there as the URL that it counts under, which is plain ASCII; the query is left out, since
    clients put secrets into it.
    """

    def __init__(self, fd: int, *, console: bool) -> None:
        self._fd = fd
        self._form = CONSOLE if console else JSON
        self._second = 0
        self._text = ""
        self._middles: dict[tuple[str, str, str], str] = {}

    def note(self, answer: Answer) -> None:
        """Write one request's line; a log that nobody takes any more is no reason to fail."""
        line = self._line(answer)
        with suppress(OSError):
            os.write(self._fd, line.encode("ascii", "backslashreplace"))

    def _line(self, answer: Answer) -> str:
        form, environ = self._form, answer.environ
        path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        if len(path) > MOST_PATH or not _PLAIN.fullmatch(path):
            path = url_of(path.encode("latin-1", "replace")[:MOST_PATH])
        client = environ.get("REMOTE_ADDR", "")
        if not _ADDRESS.fullmatch(client):
            client = "unknown"  # a proxy may have put there what a client told it
        trace_id = trace_id_of(environ)
        return (
            f"{form.begin}{self._now()}{self._middle(answer)}{path}{form.duration}{answer.took_ns / 1e6:.3f}"
            f"{form.client}{client}{form.request_id}{request_id_of(environ)}"
            f"{form.trace_id + trace_id if trace_id else ''}{form.end}"
        )

    def _now(self) -> str:
        second, fraction = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        return f"{self._text}.{fraction // 1000:06d}Z"

    def _middle(self, answer: Answer) -> str:
        """Return what is the same for all requests of a method, route and status."""
        key = (answer.environ["REQUEST_METHOD"], answer.route, answer.status)
        found = self._middles.get(key)
        if found is None:
            if len(self._middles) >= MOST_MIDDLES:  # a client that thinks methods up
                self._middles.clear()
            found = self._middles[key] = self._form.middle(*key)
        return found


@dataclass(frozen=True)
class Form:
    """What stands between the parts of an access line; `middle` makes that before the path."""

    begin: str
    middle: Callable[[str, str, str], str]
    duration: str
    client: str
    request_id: str
    trace_id: str
    end: str


def _json_middle(method: str, route: str, status: str) -> str:
    return (
        '", "level": "info", "logger": "hitledger.access", "event": "request", '
        f'"method": {json.dumps(method)}, "route": {json.dumps(route)}, "status": {status}, "path": "'
    )


def _console_middle(method: str, route: str, status: str) -> str:
    shown = json.dumps(method)[1:-1]
    return f" [info] request [hitledger.access] method={shown} route={route} status={status} path="


JSON = Form(
    '{"timestamp": "', _json_middle, '", "duration_ms": ', ', "client": "', '", "request_id": "', '", "trace_id": "',
    '"}\n',
)  # fmt: skip
CONSOLE = Form("", _console_middle, " duration_ms=", " client=", " request_id=", " trace_id=", "\n")
