"""The admin port: what probes and monitors ask for is there, and nowhere else."""

from __future__ import annotations

import json
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from hitledger.errors import ServiceError
from hitledger.serve import answers_http, check_port
from hitledger.settings import Settings
from hitledger.web import create_app
from hitledger.web.admin import MOST_CONNECTIONS, serve_admin
from tests.credentials import bearer
from tests.ports import free_port
from tests.processes import Running
from tests.support import wait_until
from tests.testruns import environment_of


def status_of(port: int, path: str) -> int:
    """Return the status that a path is answered with."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.fixture
def ports(settings: Settings) -> Iterator[tuple[int, int]]:
    """A service's port and its admin port."""
    port, admin = free_port(), free_port()
    settings = replace(settings, port=port, admin_port=admin, workers=2)
    with Running([sys.executable, "-m", "hitledger", "web"], environment_of(settings)) as web:
        wait_until(lambda: answers_http(settings))
        yield port, admin
        assert web.end() == 0


@pytest.mark.slow
def test_each_port_has_its_own(ports: tuple[int, int], token: str | None) -> None:
    """Probes and metrics are on the admin port and not on the service's; nothing else is on the admin port."""
    port, admin = ports
    for path in ("/livez", "/readyz", "/metrics"):
        assert (path, status_of(admin, path), status_of(port, path)) == (path, 200, 404)
    for path in ("/", "/api/x/", "/stats/", "/static/dashboard.css", "/docs/", "/openapi.json"):
        assert (path, status_of(admin, path)) == (path, 404)
    assert status_of(port, "/api/x/") == 200
    with urllib.request.urlopen(
        urllib.request.Request(f"http://127.0.0.1:{port}/stats/", headers=bearer(token))
    ) as answer:
        report = json.load(answer)
    # Neither what the admin port answered nor what was asked for in vain counts.
    assert report["urls"] == [{"url": "/api/x/", "requests": 1}]
    assert report["other"]["(unmatched)"] == 0


@pytest.mark.slow
def test_idle_connections_keep_nobody_out_for_long(ports: tuple[int, int]) -> None:
    """Where all places of a process are taken, a connection is closed at once, and the service goes on."""
    port, admin = ports
    with ExitStack() as stack:
        for _ in range(4 * MOST_CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", admin)))
        assert status_of(port, "/api/y/") == 200
    wait_until(lambda: answers_http(Settings(port=port, admin_port=admin)))


def test_a_port_that_cannot_be_had_is_said(settings: Settings) -> None:
    """An admin port where somebody listens stops the start, with what to do."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = replace(settings, port=free_port(), admin_port=listener.getsockname()[1])
        with pytest.raises(ServiceError, match="HITLEDGER_ADMIN_PORT"):
            check_port(taken)
        with pytest.raises(ServiceError, match="admin port"):
            create_app(taken)


def test_an_address_that_is_none_is_said(settings: Settings) -> None:
    """A host without an address is an error that names the port, and no crash."""
    app = create_app(settings)
    with pytest.raises(ServiceError, match=r"no\.such\.host\.invalid"):
        serve_admin(app, "no.such.host.invalid", 1)
    app.extensions["hitledger"].counter.stop()
