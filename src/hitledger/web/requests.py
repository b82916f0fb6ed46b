"""What holds for every request: its id, and limits on its path, body and parameters."""

from __future__ import annotations

import itertools
import os
import re
import secrets
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, abort, has_request_context, request

from hitledger.errors import QueryError
from hitledger.settings import Settings
from hitledger.tracing import TRACE_KEY

MOST_BODY_BYTES = 64 * 1024
ID_KEY = "hitledger.request_id"
"""Where a request's id stands in its environment, once somebody has asked for it."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


class _NewIds:
    """Ids that nobody else gives: 48 random bits of this process, and a number."""

    def __init__(self) -> None:
        self.begin()
        os.register_at_fork(after_in_child=self.begin)

    def begin(self) -> None:
        """Start a sequence of this process's own."""
        self._of_process = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    def next(self) -> str:
        """Return a new one; a twentieth of the price of as many random bits."""
        return f"{self._of_process}{next(self._numbers):04x}"


_new_ids = _NewIds()


def request_id_of(environ: dict[str, Any]) -> str:
    """Return a request's id: the client's `X-Request-ID` where it is well formed, else a new one."""
    known: str | None = environ.get(ID_KEY)
    if known is None:
        known = environ[ID_KEY] = well_formed_id(environ.get("HTTP_X_REQUEST_ID", ""))
    return known


def well_formed_id(given: str) -> str:
    """Return what a client gave as its request's id, where that is one, else a new id."""
    return given if _REQUEST_ID.fullmatch(given) else _new_ids.next()


def well_formed_trace(traceparent: str | None) -> str:
    """Return the trace's id from a `traceparent` header (W3C trace context); nothing where it has none."""
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    return found[1] if found else ""


def trace_id_of(environ: Mapping[str, Any]) -> str:
    """Return the id of the trace that a request belongs to, or nothing."""
    known: str | None = environ.get(TRACE_KEY)
    return known or well_formed_trace(environ.get("HTTP_TRACEPARENT"))


def request_id() -> str:
    """Return the id of the request that is being answered."""
    return request_id_of(request.environ)


def request_fields() -> Mapping[str, str]:
    """Return what belongs on each log line that is written while a request is answered."""
    if not has_request_context():
        return {}
    trace_id = trace_id_of(request.environ)
    return {"request_id": request_id(), **({"trace_id": trace_id} if trace_id else {})}


def is_page_wanted() -> bool:
    """Tell whether a person looks at a page, rather than a program at data."""
    accepted = request.accept_mimetypes
    wants_html = accepted.quality("text/html") > accepted.quality("application/json")
    return wants_html and request.method == "GET" and request.headers.get("Authorization") is None


def install_request_checks(app: Flask, settings: Settings) -> None:
    """Refuse what is too long before any endpoint sees it, and name each parameter given twice."""
    app.config["MAX_CONTENT_LENGTH"] = MOST_BODY_BYTES
    most = settings.max_path_bytes

    @app.before_request
    def check() -> None:
        # The path's bytes are what counts; its characters are never more, and mostly as many.
        path = request.environ.get("PATH_INFO", "")
        if len(path) > most:
            abort(414, f"The path is longer than {most:,} bytes.")
        if (request.content_length or 0) > MOST_BODY_BYTES:
            abort(413)
        # One parameter is not given twice.
        if b"&" in request.query_string and not path.startswith("/api"):
            for name, values in request.args.lists():
                if len(values) > 1:
                    raise QueryError(name, "is given more than once.")

    @app.after_request
    def name_request(response: Response) -> Response:
        environ = request.environ
        if settings.access_log or ID_KEY in environ or "HTTP_X_REQUEST_ID" in environ:
            response.headers["X-Request-ID"] = request_id_of(environ)
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response
