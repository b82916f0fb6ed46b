"""What is measured and logged of every request: its route, status and duration.

    request --> Observed: one entry --> Observations --> this process's meters
                                                     --> lines of the access log

`Observed` wraps the whole application, counting included, and notes an entry when an answer
is closed, after its last byte was handed to the server. What becomes of entries is made of
many at once in the background, where it costs a third: a request pays for the note only, and
never waits for whoever reads the log. Requests are known by their route, of which there are
few, and never by their path, of which there are as many as clients can think of.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any, NamedTuple

from hitledger.forks import tell_of_forks
from hitledger.meters import Meters
from hitledger.tracing import TRACE_KEY
from hitledger.web.requests import ID_KEY

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED_ROUTE = "(unmatched)"
ROW = "http "
"""How the names of these rows of the meters begin; method, status and route follow."""
MOST_WAITING = 100_000
"""Entries that wait at most: where the background stands still, the oldest go."""


class Entry(NamedTuple):
    """What is known of one request when it has been answered."""

    method: str
    status: str
    """Its three digits."""
    route: str
    """The application's rule that matched, as `/stats/` or `/test/runs/<id>/`."""
    took_ns: int
    ended_ns: int
    """Since 1970."""
    path: str
    """As WSGI has it: a character a byte."""
    peer: str
    """Who opened the connection."""
    forwarded: str
    """The `X-Forwarded-For` header, whatever it holds."""
    request_id: str | None
    given_id: str
    """The client's `X-Request-ID`, whatever it holds."""
    trace_id: str | None
    traceparent: str


class Observations:
    """The entries of this process, until they are measured and logged."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self.log: Callable[[list[Entry]], None] | None = None
        """Takes entries that are to be logged."""
        self._begin()
        meters.feed(self.digest)
        tell_of_forks(self)

    def _begin(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=MOST_WAITING)
        self.note = self._entries.append
        self._digesting = threading.Lock()

    def digest(self) -> None:
        """Measure and log what has been noted; called from the background, and before anybody reads the meters."""
        with self._digesting:
            entries = self._entries
            found = [entries.popleft() for _ in range(len(entries))]
            if not found:
                return
            by_name: dict[tuple[str, str, str], list[int]] = {}
            for entry in found:
                by_name.setdefault(entry[:3], []).append(entry.took_ns)
            for (method, status, route), durations in by_name.items():
                shown = method if method in METHODS else "other"
                self._meters.observe(f"{ROW}{shown} {status} {route}", *durations)
            if self.log:
                self.log(found)

    def after_fork_in_child(self) -> None:
        """Let go of what is the parent's, and begin anew."""
        self._begin()  # what the parent has noted is its own


class Observed:
    """Wrap a WSGI application so that each request is noted when it has been answered."""

    def __init__(self, app: WSGIApplication, observations: Observations) -> None:
        self._app = app
        self._observations = observations

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        answer = _Answer(self._observations, environ, start_response)
        try:
            answer.body = self._app(environ, answer.start_response)
        except BaseException:
            answer.status = "500"
            answer.close()
            raise
        return answer


class _Answer:
    """The body of an answer, and what is known of its request."""

    __slots__ = ("_began", "_environ", "_observations", "_route", "_start_response", "body", "status")

    def __init__(self, observations: Observations, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        self._began = perf_counter_ns()
        self._observations = observations
        self._environ = environ
        self._start_response = start_response
        self._route = UNMATCHED_ROUTE
        self.body: Iterable[bytes] = ()
        self.status = "500"

    def start_response(self, status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
        self.status = status[:3]
        # Only until the application is done does werkzeug keep its request here.
        rule = getattr(self._environ.get("werkzeug.request"), "url_rule", None)
        if rule is not None:
            self._route = rule.rule
        return self._start_response(status, headers, *exc_info)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.body)

    def close(self) -> None:
        try:
            close = getattr(self.body, "close", None)
            if close:
                close()
        finally:
            took = perf_counter_ns() - self._began
            get = self._environ.get
            self._observations.note(
                Entry(
                    get("REQUEST_METHOD", ""),
                    self.status,
                    self._route,
                    took,
                    time_ns(),
                    get("SCRIPT_NAME", "") + get("PATH_INFO", ""),
                    get("REMOTE_ADDR", ""),
                    get("HTTP_X_FORWARDED_FOR", ""),
                    get(ID_KEY),
                    get("HTTP_X_REQUEST_ID", ""),
                    get(TRACE_KEY),
                    get("HTTP_TRACEPARENT", ""),
                )
            )
