"""Pyramid, counted: `gunicorn --chdir examples pyramid_app:app`."""

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from hitledger import CountHits, routes


def hello(request: Request) -> Response:
    """Greet somebody."""
    return Response(f"hello {request.matchdict['name']}\n")


with Configurator() as config:
    config.add_subscriber(routes.pyramid, "pyramid.events.NewResponse")
    config.add_route("hello", "/hello/{name}/")
    config.add_view(hello, route_name="hello")
    app = CountHits(config.make_wsgi_app(), route=routes.noted)
