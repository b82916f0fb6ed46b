"""`/api/` and everything below it: the simulated endpoints whose requests are counted."""

from __future__ import annotations

from flask import Blueprint, Response, json, request

from hitledger.paths import url_of


def api_blueprint() -> Blueprint:
    """Answer every path below /api/, with or without a slash at its end, and never redirect."""
    blueprint = Blueprint("api", __name__)

    @blueprint.get("/api/")
    @blueprint.get("/api")
    @blueprint.get("/api/<path:rest>")
    @blueprint.get("/api//<path:rest>")
    def simulated(rest: str = "") -> Response:
        del rest
        path = request.environ.get("SCRIPT_NAME", "") + request.environ["PATH_INFO"]
        body = json.dumps({"url": url_of(path.encode("latin-1"))})
        return Response(body + "\n", mimetype="application/json")

    return blueprint
