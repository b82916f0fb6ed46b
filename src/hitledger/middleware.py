"""`CountHits`: a WSGI middleware that counts every answered request.

It is the outermost layer: what the application's own hooks answer, refuse or break off
counts like everything else. The hit is journalled when the application starts its response,
before the server has seen a byte of it, so that a request whose client saw an answer is
counted, whatever is killed afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from hitledger.counting import HitCounter
from hitledger.routes import Route

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

REFUSAL_BODY = (
    b'{"type":"about:blank","title":"Service Unavailable","status":503,'
    b'"detail":"The request cannot be counted now, and this service does not serve what it cannot count."}'
)
REFUSAL_HEADERS = [
    ("Content-Type", "application/problem+json"),
    ("Content-Length", str(len(REFUSAL_BODY))),
    ("Retry-After", "1"),
]


class CountHits:
    """Wrap a WSGI application so that each answered request is counted under its URL.

    Without a `counter`, one is made from the `HITLEDGER_*` settings; it raises as
    `HitCounter.from_environment` does. The counter's threads start with the first hit of
    each process, so the wrapped application may be forked freely. With a `route`, mostly one of
    `hitledger.routes`, each request is counted under its route as well.
    """

    def __init__(self, app: WSGIApplication, counter: HitCounter | None = None, *, route: Route | None = None) -> None:
        self._app = app
        self._route = route
        self.counter = counter or HitCounter.from_environment()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request and count it."""
        path: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        counter = self.counter
        if not counter.is_counted(path):
            return self._app(environ, start_response)
        if counter.refuses and not counter.journal.writable:
            start_response("503 Service Unavailable", list(REFUSAL_HEADERS))
            return [REFUSAL_BODY]
        hit = _Hit(counter, path, start_response, (self._route, environ) if self._route else None)
        try:
            body = self._app(environ, hit.start_response)
        except Exception:
            hit.note("500")
            raise
        if hit.noted and not hit.refused:
            return body
        return _LateBody(body, hit)


class _Hit:
    """One request on its way: noted once, when its response starts."""

    __slots__ = ("_counter", "_path", "_route", "_start_response", "noted", "refused")

    def __init__(
        self, counter: HitCounter, path: str, start_response: StartResponse, route: tuple[Route, Any] | None
    ) -> None:
        self._counter = counter
        self._path = path
        self._start_response = start_response
        self._route = route
        self.noted = False
        self.refused = False

    def note(self, status: str) -> None:
        if self.noted:
            return
        self.noted = True
        route = self._counter.find_route(*self._route) if self._route else None
        # WSGI hands over a path's bytes as Latin-1 (PEP 3333).
        if not self._counter.note(self._path.encode("latin-1", "replace"), status, route):
            self.refused = self._counter.refuses

    def start_response(self, status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
        self.note(status)
        if self.refused:
            return self._start_response("503 Service Unavailable", list(REFUSAL_HEADERS), *exc_info)
        return self._start_response(status, headers, *exc_info)


class _LateBody:
    """The body of an application that starts its response late, or whose hit was refused."""

    def __init__(self, body: Iterable[bytes], hit: _Hit) -> None:
        self._body = body
        self._hit = hit

    def __iter__(self) -> Iterator[bytes]:
        if self._hit.refused:
            yield REFUSAL_BODY
            return
        try:
            for chunk in self._body:
                if self._hit.refused:
                    yield REFUSAL_BODY
                    return
                yield chunk
        except Exception:
            self._hit.note("500")
            raise
        if self._hit.refused:
            yield REFUSAL_BODY

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close:
            close()
