"""`CountHitsASGI`: the ASGI twin of `CountHits`, with the same journal and the same guarantee.

A hit is journalled when the application sends the start of its response, before the server
has it. A websocket is a hit too, once its handshake is answered: accepted, or denied.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

from hitledger.counting import HitCounter
from hitledger.middleware import REFUSAL_BODY, REFUSAL_HEADERS
from hitledger.routes import Route

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]
"""Whatever takes a scope, a receive and a send: frameworks name their types differently."""

STATUSES = {"websocket.accept": "101", "websocket.close": "403"}
"""What a websocket's handshake is answered with, where no status is said."""
_REFUSAL_START = {
    "type": "http.response.start",
    "status": 503,
    "headers": [(name.lower().encode(), value.encode()) for name, value in REFUSAL_HEADERS],
}


class CountHitsASGI:
    """Wrap an ASGI application so that each answered request is counted under its URL.

    Without a `counter`, one is made from the `HITLEDGER_*` settings; it raises as
    `HitCounter.from_environment` does. With a `route`, mostly one of `hitledger.routes`, each
    request is counted under its route as well.
    """

    def __init__(self, app: Application, counter: HitCounter | None = None, *, route: Route | None = None) -> None:
        self._app = app
        self._route = route
        self.counter = counter or HitCounter.from_environment()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection and count it; lifespan events pass through."""
        if scope["type"] not in ("http", "websocket") or not self.counter.is_counted(scope["path"]):
            await self._app(scope, receive, send)
            return
        hit = _Hit(self.counter, path_of_scope(scope), send, (self._route, scope) if self._route else None)
        is_http = scope["type"] == "http"
        if is_http and self.counter.refuses and not self.counter.journal.writable:
            await hit.refuse()
            return
        try:
            await self._app(scope, receive, hit.send)
        except Exception:
            # The server answers with 500 itself, unless a response had begun.
            if not hit.noted:
                hit.note("500")
            raise


class _Hit:
    """One request on its way: noted once, when its response starts."""

    __slots__ = ("_counter", "_path", "_route", "_send", "noted", "refused")

    def __init__(self, counter: HitCounter, path: bytes, send: Send, route: tuple[Route, Scope] | None) -> None:
        self._counter = counter
        self._path = path
        self._send = send
        self._route = route
        self.noted = False
        self.refused = False

    def note(self, status: str) -> bool:
        """Journal the hit; return False where it is lost and must not be served."""
        self.noted = True
        route = self._counter.find_route(*self._route) if self._route else None
        return self._counter.note(self._path, status, route) or not self._counter.refuses

    async def send(self, message: Message) -> None:
        """Hand a message of the application over to the server, behind the hit's record."""
        if self.refused:
            return
        if not self.noted:
            kind = message["type"]
            status = message.get("status") or STATUSES.get(kind)
            if status is not None and not self.note(str(status)) and kind == "http.response.start":
                await self.refuse()
                return
        await self._send(message)

    async def refuse(self) -> None:
        """Answer with 503 instead of the application."""
        self.refused = True
        await self._send(dict(_REFUSAL_START))
        await self._send({"type": "http.response.body", "body": REFUSAL_BODY})


def path_of_scope(scope: Scope) -> bytes:
    """Return the path's bytes: what was sent, where the server hands it over, else its text in UTF-8."""
    raw: bytes | None = scope.get("raw_path")
    if raw is None:
        path: str = scope["path"]
        return path.encode("utf-8", "surrogateescape")
    # Some servers leave the query string in raw_path.
    raw = raw.partition(b"?")[0]
    return unquote_to_bytes(raw) if b"%" in raw else raw
