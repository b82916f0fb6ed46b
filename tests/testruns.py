"""What the tests of test runs need: a target to send requests to, and workers as users start them."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields

from hitledger.settings import Settings, variable_of
from tests.processes import Running

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Answer = Callable[[bytes, int], bytes | None]
"""From a request's head and its number on its connection to an answer; None hangs up instead."""


def always_ok(head: bytes, number: int) -> bytes:
    """Answer everything."""
    del head, number
    return OK


class Target:
    """An HTTP server of the test's own, which notes every request that reached it."""

    def __init__(self, answer: Answer = always_ok) -> None:
        self.requests: list[bytes] = []
        """The heads of all requests, as they came."""
        self.connections = 0
        self.got_one = threading.Event()
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def paths(self) -> list[str]:
        """The paths requested."""
        return [head.split(b" ", 2)[1].decode() for head in self.requests]

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        number, unread = 0, b""
        with connection, suppress(OSError):
            while True:
                head, found, unread = unread.partition(b"\r\n\r\n")
                if not found:
                    received = connection.recv(65536)
                    if not received:
                        break
                    unread = head + received
                    continue
                self.requests.append(head)
                self.got_one.set()
                answer = self._answer(head, number)
                if answer is None:
                    break
                connection.sendall(answer)
                number += 1
        self._open.discard(connection)

    def close(self) -> None:
        """Stop listening and break every connection."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def target(answer: Answer = always_ok) -> Iterator[Target]:
    """Serve for the length of a block."""
    server = Target(answer)
    try:
        yield server
    finally:
        server.close()


def environment_of(settings: Settings) -> dict[str, str]:
    """Return the environment variables that give a program these settings."""
    chosen = {variable_of(each): getattr(settings, each.name) for each in fields(settings)}
    defaults = {variable_of(each): each.default for each in fields(settings)}
    return {name: str(value) for name, value in chosen.items() if value != defaults[name]}


@contextmanager
def worker(settings: Settings) -> Iterator[Running]:
    """Run `hitledger worker` for the length of a block, which begins when it takes runs."""
    with Running([sys.executable, "-m", "hitledger", "worker"], environment_of(settings)) as process:
        process.line_with("takes test runs")
        yield process
