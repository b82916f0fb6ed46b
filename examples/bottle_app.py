"""Bottle, counted: `gunicorn --chdir examples bottle_app:app`."""

from bottle import Bottle

from hitledger import CountHits, routes

bottle = Bottle()


@bottle.get("/hello/<name>/")  # type: ignore[untyped-decorator]
def hello(name: str) -> str:
    """Greet somebody."""
    return f"hello {name}\n"


app = CountHits(bottle, route=routes.bottle)
