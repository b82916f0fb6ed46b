"""examples: each framework's application is counted exactly, by URL and by route."""

from __future__ import annotations

import asyncio
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import requests
from django.conf import empty
from django.conf import settings as django_settings
from werkzeug.test import Client

from hitledger.ledger import LedgerStore
from hitledger.posting import Poster
from hitledger.settings import Settings
from tests.books import counts_of, routes_of
from tests.ports import free_port
from tests.processes import Running
from tests.support import wait_until

FOLDER = Path(__file__).parent.parent / "examples"
APPLICATIONS = {
    "flask_app:app": "/hello/<name>/",
    "bottle_app:app": "/hello/<name>/",
    "falcon_app:app": "/hello/{name}/",
    "pyramid_app:app": "/hello/{name}/",
    "django_app:app": "/hello/<str:name>/",
    "django_app:asgi_app": "/hello/<str:name>/",
    "falcon_asgi_app:app": "/hello/{name}/",
    "fastapi_app:app": "/hello/{name}/",
    "starlette_app:app": "/hello/{name}/",
    "litestar_app:app": "/hello/{name}",
    "quart_app:app": "/hello/<name>/",
}
"""Each application, and its route as its framework writes it."""
ASGI = {name for name in APPLICATIONS if "asgi" in name} | {
    f"{framework}_app:app" for framework in ("fastapi", "starlette", "litestar", "quart")
}
REQUESTS = [("GET", "/hello/ann/"), ("GET", "/hello/ann/?again"), ("HEAD", "/hello/bob/"), ("GET", "/nothing/here")]


NO_PKG_RESOURCES = "Pyramid needs pkg_resources, which the locked setuptools has not; the slow test brings an older one"
SETUPTOOLS_WITH_PKG_RESOURCES = "setuptools<82"
"""What Pyramid 2.1 asks for, too; hdrhistogram asks for a newer one, so that no lock file can hold both."""


@pytest.fixture
def application(environment: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Any]:
    """An example, imported as its server does."""
    del environment
    module, _, name = str(request.param).partition(":")
    if module == "pyramid_app" and find_spec("pkg_resources") is None:
        pytest.skip(NO_PKG_RESOURCES)
    django_settings._wrapped = empty  # it can be configured once
    sys.path.insert(0, str(FOLDER))
    try:
        yield getattr(importlib.import_module(module), name)
    finally:
        sys.path.remove(str(FOLDER))
        sys.modules.pop(module, None)


def ask_asgi(app: Any, method: str, target: str) -> None:
    """Send one request through an ASGI application."""
    path, _, query = target.partition("?")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    ended = asyncio.Event()
    waiting = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop()
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            ended.set()

    asyncio.run(app(scope, receive, send))


def judge(store: LedgerStore, name: str) -> None:
    """Hold what the ledger has against the requests that were made."""
    counts = counts_of(store)
    head = {"/hello/bob/": 1}
    # Falcon and Litestar have no HEAD where there is a GET: that is a 405.
    no_head = name.startswith(("falcon", "litestar", "fastapi"))
    assert counts == {"/hello/ann/": 2} | ({} if no_head else head)
    assert store.totals().lines == {"(unmatched)": 2 if no_head else 1}
    assert store.totals().requests == len(REQUESTS)
    routes = routes_of(store)
    assert list(routes) == [APPLICATIONS[name]]
    assert routes[APPLICATIONS[name]] in ((2, 3) if no_head else (3,))


@pytest.mark.parametrize(("application", "name"), [(name, name) for name in APPLICATIONS], indirect=["application"])
@pytest.mark.filterwarnings("default")  # what frameworks say of themselves
def test_an_example_counts(application: Any, name: str, store: LedgerStore) -> None:
    """Each answered request is counted under its URL and its route, in every framework."""
    for method, target in REQUESTS:
        if name in ASGI:
            ask_asgi(application, method, target)
        else:
            Client(application).open(target, method=method)
    counter = getattr(application, "counter", None) or getattr(application, "wsgi_app", None) or application.asgi_app
    getattr(counter, "counter", counter).stop()
    judge(store, name)


def test_the_page_shows_what_the_examples_do() -> None:
    """Each line that the page for applications tells a reader to write stands in the example that it names."""
    page = (FOLDER.parent / "docs" / "applications.md").read_text("utf-8")
    rows = re.findall(r"^\| [^|]+ \| (`.+`) \| \[(\w+\.py)\]", page, re.MULTILINE)
    assert {example for _, example in rows} == {path.name for path in FOLDER.glob("*.py")}
    for lines, example in rows:
        for line in re.findall(r"`([^`]+)`", lines):
            assert line in (FOLDER / example).read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_an_example_runs_on_a_real_server(
    environment: dict[str, str], name: str, settings: Settings, tmp_path: Path
) -> None:
    """Started as its first line says, an example answers over HTTP and counts exactly."""
    port = free_port()
    if name in ASGI:
        command = ["uvicorn", "--app-dir", str(FOLDER), "--port", str(port), name]
    else:
        command = ["gunicorn", "--chdir", str(FOLDER), "--bind", f"127.0.0.1:{port}", "--workers", "2", name]
    if name.startswith("pyramid") and find_spec("pkg_resources") is None:
        environment["PYTHONPATH"] = str(older_setuptools(tmp_path / "older"))
    with Running([sys.executable, "-W", "ignore", "-m", *command], environment) as server:
        wait_until(lambda: _answers(port) or server.process.poll() is not None)
        answers = [requests.request(method, f"http://127.0.0.1:{port}{path}", timeout=20) for method, path in REQUESTS]
        assert [answers[0].text, answers[1].text] == ["hello ann\n"] * 2
        assert answers[3].status_code == 404
        server.end()
    with closing(LedgerStore(settings)) as store:
        Poster(settings, store).post_now()  # what a server that ends at once leaves in the journal
        judge(store, name)


def older_setuptools(folder: Path) -> Path:
    """Install the last setuptools that has pkg_resources into a folder of its own."""
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--target", str(folder)]
    subprocess.run([*command, SETUPTOOLS_WITH_PKG_RESOURCES], check=True)
    return folder


def _answers(port: int) -> bool:
    """Tell whether a server answers, with a request that does not count."""
    try:
        return bool(requests.get(f"http://127.0.0.1:{port}/livez", timeout=5).status_code)
    except requests.RequestException:  # not there yet, or busy with its start
        return False
