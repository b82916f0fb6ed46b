"""Quart, counted: `uvicorn --app-dir examples quart_app:app`."""

from quart import Quart

from hitledger import CountHitsASGI, routes

app = Quart(__name__)
app.after_request(routes.quart)
app.asgi_app = CountHitsASGI(app.asgi_app, route=routes.noted)  # type: ignore[method-assign, assignment]


@app.get("/hello/<name>/")
async def hello(name: str) -> str:
    """Greet somebody."""
    return f"hello {name}\n"
