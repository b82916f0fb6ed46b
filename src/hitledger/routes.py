"""The route that a framework has matched for a request: `/api/product/<id>/` beside `/api/product/17/`.

    app.wsgi_app = CountHits(app.wsgi_app, route=routes.flask)

A middleware asks for the route when the application starts its response; the framework has
matched by then. Some frameworks leave what they matched in the WSGI environment or the ASGI
scope, and a function here reads it: `flask`, `bottle`, `starlette` (FastAPI too), `litestar`.
The others are given a hook, which leaves it there under `KEY`, and `noted` reads that:

    Django    MIDDLEWARE = ["hitledger.routes.django", ...]
    Falcon    falcon.App(middleware=[routes.Falcon()])
    Pyramid   config.add_subscriber(routes.pyramid, "pyramid.events.NewResponse")
    Quart     app.after_request(routes.quart)

No framework is imported here. What a function cannot find has no route, and counts all the same.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

KEY = "hitledger.route"
Place = MutableMapping[str, Any]
"""A WSGI environment or an ASGI scope."""
Route = Callable[[Place], str | None]
"""What the middlewares take: the route of a request, None where there is none."""


def noted(place: Place) -> str | None:
    """Return the route that a hook, or the application itself, left under `KEY`."""
    route: str | None = place.get(KEY)
    return route


# Frameworks that leave what they matched


def flask(environ: Place) -> str | None:
    """Return the rule that Flask matched."""
    rule = getattr(environ.get("werkzeug.request"), "url_rule", None)
    return environ.get("SCRIPT_NAME", "") + rule.rule if rule else None


def bottle(environ: Place) -> str | None:
    """Return the rule that Bottle matched."""
    route = environ.get("bottle.route")
    return environ.get("SCRIPT_NAME", "") + route.rule if route else None


def starlette(scope: Place) -> str | None:
    """Return the path that Starlette or FastAPI matched, with those of the mounts around it."""
    path: str | None = getattr(scope.get("route"), "path", None)
    root: str = scope.get("root_path", "")
    if path is None or not root:
        return path
    # What a mount matched is known by its values only: where one is a parameter's, that stands in its place.
    names = {str(value): f"{{{name}}}" for name, value in scope.get("path_params", {}).items()}
    return "/".join(names.get(segment, segment) for segment in root.split("/")) + path


def litestar(scope: Place) -> str | None:
    """Return the path that Litestar matched."""
    template: str | None = scope.get("path_template")
    return template or None


# Frameworks that are given a hook


def django(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Be a Django middleware, for WSGI and ASGI, that notes the route of each request."""
    if inspect.iscoroutinefunction(get_response):

        async def note_later(request: Any) -> Any:
            answer: Awaitable[Any] = get_response(request)
            try:
                return await answer
            finally:
                _note_django(request)

        return note_later

    def note(request: Any) -> Any:
        try:
            return get_response(request)
        finally:
            _note_django(request)

    return note


django.sync_capable = django.async_capable = True  # type: ignore[attr-defined] # what Django asks a middleware


def _note_django(request: Any) -> None:
    if request.resolver_match is None:
        return
    place: Place = request.scope if hasattr(request, "scope") else request.environ
    prefix = place.get("root_path", place.get("SCRIPT_NAME", ""))
    place[KEY] = f"{prefix}/{request.resolver_match.route}"


class Falcon:
    """Be a Falcon middleware, for WSGI and ASGI, that notes the route of each request."""

    def process_resource(self, req: Any, resp: Any, resource: Any, params: Any) -> None:
        """Note what a request was routed to."""
        del resp, resource, params
        req.env[KEY] = req.root_path + req.uri_template

    async def process_resource_async(self, req: Any, resp: Any, resource: Any, params: Any) -> None:
        """Do the same for ASGI."""
        del resp, resource, params
        req.scope[KEY] = req.root_path + req.uri_template


def pyramid(event: Any) -> None:
    """Note the route of a request: a subscriber to Pyramid's NewResponse."""
    route = getattr(event.request, "matched_route", None)
    if route is not None:
        event.request.environ[KEY] = event.request.script_name + "/" + route.pattern.lstrip("/")


async def quart(response: Any) -> Any:
    """Note the route of the request that Quart is answering: for `app.after_request`."""
    request = sys.modules["quart"].request
    if request.url_rule is not None:
        request.scope[KEY] = request.root_path + request.url_rule.rule
    return response
