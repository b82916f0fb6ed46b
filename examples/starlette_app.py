"""Starlette, counted: `uvicorn --app-dir examples starlette_app:app`."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from hitledger import CountHitsASGI, routes


async def hello(request: Request) -> PlainTextResponse:
    """Greet somebody."""
    return PlainTextResponse(f"hello {request.path_params['name']}\n")


starlette = Starlette(routes=[Mount("/hello", routes=[Route("/{name}/", hello)])])
app = CountHitsASGI(starlette, route=routes.starlette)
