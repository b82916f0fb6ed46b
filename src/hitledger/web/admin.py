"""The admin port: `/metrics`, `/livez` and `/readyz` for those inside, apart from what the world sees.

Every web process answers there by a thread of its own, whatever server runs the application
itself; the kernel gives a connection to one of them (SO_REUSEPORT). It is small and plain:
keep it on a network that only probes and monitors reach.
"""

from __future__ import annotations

import socket
import threading
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from flask import Flask
from flask_openapi3 import OpenAPI

from hitledger.errors import ServiceError
from hitledger.web.health import health_api
from hitledger.web.metrics import metrics_blueprint
from hitledger.web.problems import install_problems
from hitledger.web.requests import install_request_checks
from hitledger.web.services import Services

MOST_CONNECTIONS = 32
"""Connections that a process answers at once on the admin port; others are closed."""
IDLE_SECONDS = 10


def build_admin_app(services: Services) -> Flask:
    """Return the application of the admin port. Nothing of it is counted."""
    app = OpenAPI("hitledger.web", doc_ui=False, static_folder=None)
    install_request_checks(app, services.settings)
    install_problems(app)
    app.register_blueprint(metrics_blueprint(services))
    app.register_api(health_api(services))
    return app


def serve_admin(app: Flask, host: str, port: int) -> None:
    """Answer on the admin port from now on, for as long as the process lives.

    Raises:
        ServiceError: the port cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        server = _Server(family, (str(address[0]), port))
    except OSError as error:
        raise ServiceError(
            f"The admin port {port} on {host} cannot be had: {error.strerror}.", "Set HITLEDGER_ADMIN_PORT to another."
        ) from error
    server.set_app(app)
    threading.Thread(target=server.serve_forever, name="hitledger-admin", daemon=True).start()


class _Handler(WSGIRequestHandler):
    timeout = IDLE_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's name
        """Say nothing: probes come every few seconds."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_port = True
    request_queue_size = 64

    def __init__(self, family: int, address: tuple[str, int]) -> None:
        self.address_family = family
        self._places = threading.Semaphore(MOST_CONNECTIONS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # The class above would look its own name up, which may take long.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()
