"""What holds for every request: its id, and limits on its path, body and parameters."""

from __future__ import annotations

import re
import secrets

from flask import Flask, Response, abort, g, request

from hitledger.errors import QueryError
from hitledger.settings import Settings

MOST_BODY_BYTES = 64 * 1024
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id() -> str:
    """Return this request's id: the client's `X-Request-ID` where it is well formed, else a new one."""
    if "request_id" not in g:
        given = request.headers.get("X-Request-ID", "")
        g.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
    return str(g.request_id)


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
        if request.query_string and not path.startswith("/api"):
            for name, values in request.args.lists():
                if len(values) > 1:
                    raise QueryError(name, "is given more than once.")

    @app.after_request
    def name_request(response: Response) -> Response:
        if "request_id" in g or "X-Request-ID" in request.headers:
            response.headers["X-Request-ID"] = request_id()
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response
