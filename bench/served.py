"""Applications under load: the service counted and uncounted, and a bare one; and wrk in front of them."""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import Flask
from tests.ports import free_port

from bench.common import program
from hitledger.middleware import CountHits
from hitledger.web import create_app
from hitledger.web.observed import Observed

THREADS = "16"


def counted() -> Flask:
    """Return the service as it is."""
    return create_app()


def uncounted() -> Flask:
    """Return the service without its middleware; its background is there all the same."""
    app = create_app()
    assert isinstance(app.wsgi_app, Observed)
    counting = app.wsgi_app._app  # noqa: SLF001
    assert isinstance(counting, CountHits)
    app.wsgi_app._app = counting._app  # noqa: SLF001
    return app


def bare(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer everything at once: what is measured is who asks."""
    del environ
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


@contextmanager
def granian(target: str, environment: dict[str, str], *, workers: int = 2) -> Iterator[str]:
    """Serve a name of this module as `hitledger web` does; yields its address."""
    port = free_port()
    command = [
        sys.executable, "-m", "granian", "--interface", "wsgi", "--workers", str(workers), "--port", str(port),
        "--blocking-threads", THREADS, "--http", "1", "--no-ws", "--backlog", "2048", "--log-level", "error",
        *([] if target == "bare" else ["--factory"]), f"bench.served:{target}",
    ]  # fmt: skip

    def answers() -> bool:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/api/")
            return connection.getresponse().status == 200
        except OSError:
            return False

    with program(command, environment, answers):
        yield f"http://127.0.0.1:{port}"


def wrk(address: str, script: Path, seconds: int = 1, connections: int = 32) -> float:
    """Return the requests a second that wrk gets answered; fails on any that is not answered well."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), address]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in output, output
    found = re.search(r"Requests/sec:\s+([0-9.]+)", output)
    assert found, output
    return float(found[1])


def wrk_script(folder: Path, paths: Sequence[str]) -> Path:
    """Write a script for wrk that asks for paths one after the other."""
    lines = ",".join(f'"{path}"' for path in paths)
    script = folder / "paths.lua"
    script.write_text(
        f"local paths = {{{lines}}}\nlocal at = 0\n"
        "request = function()\n  at = at % #paths + 1\n  return wrk.format('GET', paths[at])\nend\n"
    )
    return script
