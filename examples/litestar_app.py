"""Litestar, counted: `uvicorn --app-dir examples litestar_app:app`."""

from litestar import Litestar, MediaType, get
from litestar.params import FromPath

from hitledger import CountHitsASGI, routes


@get("/hello/{name:str}/", media_type=MediaType.TEXT, sync_to_thread=False)
def hello(name: FromPath[str]) -> str:
    """Greet somebody."""
    return f"hello {name}\n"


app = CountHitsASGI(Litestar([hello], openapi_config=None), route=routes.litestar)
