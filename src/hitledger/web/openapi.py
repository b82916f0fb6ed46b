"""`/openapi.json`, as clients and scanners need it: what flask-openapi3 makes of the code, made true.

Left to itself it says that errors are lists in plain JSON, that an optional parameter may be
`null`, which no query string can say, and nothing of the errors that any request may meet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from http import HTTPStatus
from typing import Any

from flask_openapi3 import OpenAPI

from hitledger.settings import Settings
from hitledger.web.auth.endpoints import OPEN, needs_of

ANYWHERE = (413, 414, 421, 422, 500)
"""What may be answered to any request: limits on its body, path, host and parameters, and a mistake of ours."""
PROBLEM = {"$ref": "#/components/schemas/Problem"}
ERROR = {"content": {"application/json": {"schema": PROBLEM}}}


def describe(app: OpenAPI, settings: Settings) -> dict[str, Any]:
    """Return the application's OpenAPI document."""
    document: dict[str, Any] = deepcopy(app.api_doc)
    document["components"] = {name: part for name, part in document["components"].items() if part is not None}
    if settings.auth_mode != "none":
        _add_security(document, app)
    for operation in _operations(document):
        operation["parameters"] = [_parameter(each) for each in operation.get("parameters", [])]
        responses = operation["responses"]
        for status in ANYWHERE:
            responses.setdefault(str(status), ERROR)
        operation["responses"] = {status: _response(status, responses[status]) for status in sorted(responses)}
    (size,) = (each for each in document["paths"]["/test/{n}/"]["post"]["parameters"] if each["name"] == "n")
    size["schema"]["maximum"] = settings.test_max_requests
    return document


def _add_security(document: dict[str, Any], app: OpenAPI) -> None:
    """Say which operations need a key or token, which rights, and how one that is no good is answered."""
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a token of the issuer."}
    }
    for rule in app.url_map.iter_rules():
        path = document["paths"].get(re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), {})
        needs = needs_of(rule.endpoint)
        for operation in (path[method.lower()] for method in rule.methods or () if method.lower() in path):
            if needs != OPEN:
                operation["security"] = [{"bearer": sorted(needs)}]
                for status in (401, 403, 503):
                    operation["responses"].setdefault(str(status), ERROR)


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()


def _parameter(parameter: dict[str, Any]) -> dict[str, Any]:
    """Return a parameter that is given or left out, but never null."""
    schema = parameter["schema"]
    if {"type": "null"} in schema.get("anyOf", ()):
        (given,) = (each for each in schema["anyOf"] if each != {"type": "null"})
        rest = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
        schema = given | rest
    return parameter | {"schema": schema}


def _response(status: str, response: dict[str, Any]) -> dict[str, Any]:
    """Return a response; one that is a problem has its own media type."""
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    if PROBLEM not in (schema, schema.get("items")):
        return response
    return {
        "description": HTTPStatus(int(status)).phrase,
        "content": {"application/problem+json": {"schema": PROBLEM}},
    }
