"""Flask, counted: `gunicorn --chdir examples flask_app:app`."""

from flask import Flask

from hitledger import CountHits, routes

app = Flask(__name__)
app.wsgi_app = CountHits(app.wsgi_app, route=routes.flask)  # type: ignore[method-assign] # as Flask's manual does


@app.get("/hello/<name>/")
def hello(name: str) -> str:
    """Greet somebody."""
    return f"hello {name}\n"
