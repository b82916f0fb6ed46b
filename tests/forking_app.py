"""An application for tests: asked for `/fork/`, it forks, and the child answers on a port of its own."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from wsgiref.simple_server import WSGIServer, make_server

from flask import Flask

from hitledger import CountHits

flask = Flask(__name__)
app = CountHits(flask.wsgi_app)


@flask.get("/hello/<name>/")
def hello(name: str) -> str:
    """Greet somebody."""
    return f"hello {name}\n"


@flask.get("/fork/")
def fork() -> str:
    """Start a process that goes on from this one's memory; its port is the answer."""
    server = make_server("127.0.0.1", 0, app)
    multiprocessing.get_context("fork").Process(target=_serve, args=[server], daemon=True).start()
    return f"{server.server_port}\n"


def _serve(server: WSGIServer) -> None:
    for each in (signal.SIGTERM, signal.SIGINT):  # gunicorn's handlers came along
        signal.signal(each, signal.SIG_DFL)
    sys.stderr = sys.stdout
    server.serve_forever()
