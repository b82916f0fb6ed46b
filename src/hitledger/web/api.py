"""`/api/` and everything below it: the simulated endpoints whose requests are counted."""

from __future__ import annotations

from flask import Response, json, request
from flask_openapi3 import APIBlueprint
from pydantic import BaseModel, Field
from werkzeug.routing import BaseConverter

from hitledger.paths import url_of


class AnythingConverter(BaseConverter):
    """The rest of a path, whatever it holds: slashes at either end, and line feeds too."""

    regex = r"[\s\S]*"
    part_isolating = False


class Simulated(BaseModel):
    """What a simulated endpoint answers."""

    url: str = Field(description="The URL that the request is counted under.")


def api_blueprint() -> APIBlueprint:
    """Answer every path below /api/, with or without a slash at its end, and never redirect."""
    blueprint = APIBlueprint("api", __name__)

    @blueprint.get("/api/", responses={200: Simulated}, summary="A simulated endpoint, as is everything below it")
    def simulated(rest: str = "") -> Response:
        del rest
        path = request.environ.get("SCRIPT_NAME", "") + request.environ["PATH_INFO"]
        body = json.dumps({"url": url_of(path.encode("latin-1"))})
        return Response(body + "\n", mimetype="application/json")

    for rule in ("/api", "/api/<anything:rest>"):
        blueprint.add_url_rule(rule, "below", simulated, methods=["GET"])
    return blueprint
