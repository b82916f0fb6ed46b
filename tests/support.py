"""What several test modules need: a private Valkey, and waiting for events with a bound."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import redis
from flask.testing import FlaskClient

from hitledger.embedded import valkey_binary
from tests.proxy import Proxy

Found = TypeVar("Found")
Clients = Callable[..., FlaskClient]
"""Makes clients of services, from changes to the settings."""


def wait_until(found: Callable[[], Found | None], seconds: float = 60.0, pause: float = 0.01) -> Found:
    """Return what `found` returns once that is true; fail after the bound."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = found()
        if value:
            return value
        time.sleep(pause)
    raise AssertionError(f"not within {seconds} s: {found}")


def clear_of_a_turn(of_seconds: int = 3600, within: float = 20.0) -> None:
    """Wait for an hour's turn, or a day's in UTC, that is nearer than `within` seconds; mostly there is none."""
    number = time.time() // of_seconds
    if (number + 1) * of_seconds - time.time() < within:
        wait_until(lambda: time.time() // of_seconds > number, within + 10)


class Valkey:
    """A real Valkey server of the tests' own, on a Unix socket, with the durability that is shipped."""

    def __init__(self, directory: Path, *options: str, port: int = 0) -> None:
        self.directory = directory
        self.socket = directory / "valkey.sock"
        self.port = port
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """The server's address, as HITLEDGER_REDIS_URL takes it."""
        return f"unix://{self.socket}"

    def database_url(self, number: int) -> str:
        """Return the address of another of its databases."""
        return f"{self.url}?db={number}"

    @property
    def client(self) -> redis.Redis:
        """A client that sees texts, and may do everything."""
        return redis.Redis(unix_socket_path=str(self.socket), decode_responses=True)

    def proxy(self) -> Proxy:
        """Return a proxy before it; a context."""
        return Proxy(self.socket)

    def binary(self) -> Path:
        """Return the program."""
        return valkey_binary()

    def start(self) -> None:
        """Start it, again on the same files after a stop, and wait until it answers."""
        command = [
            str(self.binary()), "--port", str(self.port), "--unixsocket", str(self.socket),
            "--dir", str(self.directory), "--appendonly", "yes", "--appendfsync", "always",
            "--save", "", "--bind", "127.0.0.1", *self._options,
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        """Kill it as -9 does."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Stop it in good order."""
        assert self.process
        self.process.terminate()
        self.process.wait()
