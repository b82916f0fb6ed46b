"""`/openapi.json`, made from the code, and `/docs/`, a page to read and try it, offline."""

from __future__ import annotations

from importlib.resources import files

from flask import Blueprint, Response, abort, jsonify, send_file
from flask_openapi3 import OpenAPI

from hitledger.settings import Settings
from hitledger.web.openapi import describe
from hitledger.web.safety import protect_pages

ASSETS = {
    "swagger-ui.css": ("css", "text/css"),
    "swagger-ui-bundle.js": ("js", "text/javascript"),
}
"""Swagger UI's files as the package flask-openapi3-swagger carries them, with their folders."""

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>hitledger: the HTTP API</title>
<link rel="icon" href="/static/icon.svg">
<link rel="stylesheet" href="/static/docs/swagger-ui.css">
<div id="docs">
<noscript>This page needs JavaScript; <a href="/openapi.json">/openapi.json</a> does not.</noscript>
</div>
<script src="/static/docs/swagger-ui-bundle.js"></script>
<script src="/static/docs/start.js"></script>
</html>
"""
START = """SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null
});
"""


def docs_blueprint(app: OpenAPI, settings: Settings) -> Blueprint:
    """Return the pages that describe the application's API."""
    blueprint = Blueprint("docs", __name__)
    protect_pages(blueprint, settings)

    @blueprint.get("/openapi.json")
    def openapi() -> Response:
        return jsonify(describe(app, settings))

    @blueprint.get("/docs/")
    def docs() -> Response:
        return Response(PAGE, mimetype="text/html")

    @blueprint.get("/static/docs/<name>")
    def asset(name: str) -> Response:
        if name == "start.js":
            return Response(START, mimetype="text/javascript")
        if name not in ASSETS:
            abort(404)
        folder, mimetype = ASSETS[name]
        source = files("flask_openapi3_swagger").joinpath("templates", "swagger", folder, name)
        return send_file(str(source), mimetype=mimetype, max_age=86400)

    return blueprint
