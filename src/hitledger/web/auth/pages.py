"""Signing in and out, as pages for people.

Where people go next is a path of this service, checked by `safe_path`: never an address
that a link from elsewhere chose.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from flask import Blueprint, Response, redirect, render_template, request, session
from werkzeug.wrappers import Response as AnyResponse

from hitledger.apikeys import KeyChecker
from hitledger.web.auth.sessions import begin
from hitledger.web.forms import Forms

MOST_PATH = 800
"""Longer ones lead to the first page instead: they travel in a cookie."""
_PATH = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*")


def safe_path(text: str | None) -> str:
    """Return a path of this service to go to; `/` for whatever could lead anywhere else, or in circles."""
    if text is None or len(text) > MOST_PATH or not _PATH.fullmatch(text) or text.startswith("/auth/"):
        return "/"
    parts = urlsplit(text)
    return "/" if parts.scheme or parts.netloc else text


def page(status: int = 200, **context: object) -> Response:
    """Return the page about signing in."""
    return Response(render_template("sign-in.html", **context), status, {"Cache-Control": "no-store"})


def key_pages(keys: KeyChecker, forms: Forms) -> Blueprint:
    """Return the pages by which people come in with an API key, where no issuer is set."""
    blueprint = Blueprint("auth", __name__, url_prefix="/auth")

    @blueprint.get("/sign-in")
    def sign_in() -> Response:
        return page(next=safe_path(request.args.get("next")))

    @blueprint.post("/key")
    def use_key() -> AnyResponse:
        form = forms.read()
        path = safe_path(form.get("next"))
        key = keys.check(form.get("key", "").strip())
        if key is None:
            return page(401, next=path, error="The API key is unknown, revoked or over.")
        begin({"key": key.id})
        return redirect(path, 303, Response)

    @blueprint.post("/sign-out")
    def sign_out() -> Response:
        session.clear()
        return page(out=True)

    return blueprint
