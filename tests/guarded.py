"""A ledger behind a door, and a service that asks for tokens: how the default tests run with GUARDED=1.

The ledger's user is the writer that `hitledger acl` prints, it is reached by TLS only, with a
client's certificate, and `default` is locked; the service trusts an issuer, and every test's
client sends a token of it unless the test sends something of its own.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient
from redis.backoff import NoBackoff
from redis.retry import Retry
from werkzeug.test import TestResponse

from hitledger.acl import BROKER, DEFAULT, LIMITS, users
from hitledger.settings import Settings
from tests.certificates import Certificates, make_certificates
from tests.issuer import LocalIssuer
from tests.ports import free_port
from tests.proxy import CAREFUL, Proxy
from tests.servers import Server
from tests.support import Valkey

GUARDED = bool(os.environ.get("GUARDED"))
PASSWORD = "a password of the tests' @/: own"
ENCODED = "a%20password%20of%20the%20tests%27%20%40%2F%3A%20own"
ADMINISTRATOR = "user administrator on >everything ~* &* +@all"


def tls_binary(folder: Path) -> Path:
    """Return a Valkey server that speaks TLS; skip the test where there is none."""
    binary = shutil.which("valkey-server")
    if binary is None and (other := shutil.which("valkey-check-rdb")):
        # The same program by another name: Debian's package valkey-tools has it, and starts no service.
        folder.mkdir(parents=True, exist_ok=True)
        link = folder / "valkey-server"
        if not link.exists():
            link.symlink_to(other)
        binary = str(link)
    if binary is None:
        pytest.skip("needs a Valkey built with TLS: Debian's package valkey-tools")
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    if int(said.partition("v=")[2].partition(".")[0] or 0) < 8:
        pytest.skip(f"needs Valkey 8 or later with TLS; here is {said.strip() or binary}")
    return Path(binary)


def tls_options(certificates: Certificates, port: int) -> list[str]:
    """Return the options of a server that is reached by TLS only, with a certificate."""
    return [
        "--tls-port", str(port), "--tls-cert-file", str(certificates.server),
        "--tls-key-file", str(certificates.server_key), "--tls-ca-cert-file", str(certificates.authority),
        "--tls-auth-clients", "yes",
    ]  # fmt: skip


class TLSServer(Server):
    """A server by TLS, with the users that `hitledger acl` prints and an administrator for the test."""

    def __init__(self, folder: Path, key_prefix: str, password: str | None = PASSWORD) -> None:
        self.certificates = make_certificates(folder / "certificates")
        folder.mkdir(parents=True, exist_ok=True)
        self.users = [DEFAULT, *(user.line(key_prefix, password) for user in users("hitledger", *BROKER, *LIMITS))]
        (folder / "users.acl").write_text("\n".join([*self.users, ADMINISTRATOR]) + "\n")
        super().__init__(folder, "--aclfile", str(folder / "users.acl"), binary=tls_binary(folder))

    def command(self) -> list[str]:
        """Return the command that runs it."""
        command = super().command()
        command[command.index("--port") + 1] = "0"
        return [*command, *tls_options(self.certificates, self.port)]

    @property
    def plain_url(self) -> str:
        """Its address without what opens its door."""
        return f"rediss://hitledger@127.0.0.1:{self.port}"

    def url_of(self, user: str) -> str:
        """Return the address by which one of its users comes in."""
        return f"rediss://{user}:{ENCODED}@127.0.0.1:{self.port}/0?{self.certificates.options}"

    @property
    def url(self) -> str:
        """The address of the service's own user."""
        return self.url_of("hitledger")

    @property
    def client(self) -> redis.Redis:
        """The administrator's client."""
        url = self.url.replace(f"hitledger:{ENCODED}", "administrator:everything")
        return redis.Redis.from_url(url, decode_responses=True, retry=Retry(NoBackoff(), 0), socket_timeout=5)


class GuardedValkey(Valkey):
    """A Valkey behind its door. The tests' own look at it goes by the socket, as an administrator."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.certificates = make_certificates(directory / "certificates")
        self.tls_port = free_port()
        own = users("hitledger", *BROKER, *LIMITS)[0].line("test-*", PASSWORD)
        (directory / "users.acl").write_text(f"{DEFAULT}\n{own}\n{ADMINISTRATOR}\n")
        self._tls_binary = tls_binary(directory / "bin")
        door = ["--aclfile", str(directory / "users.acl"), *tls_options(self.certificates, self.tls_port)]
        super().__init__(directory, *door, *options)

    def binary(self) -> Path:
        """Return the program."""
        return self._tls_binary

    @property
    def url(self) -> str:
        """The address of the service's own user."""
        return self.url_at(f"hitledger:{ENCODED}", self.tls_port)

    def url_at(self, login: str, port: int, database: int = 0) -> str:
        """Return the address by which a user comes in at a port."""
        return f"rediss://{login}@127.0.0.1:{port}/{database}?{self.certificates.options}"

    def database_url(self, number: int) -> str:
        """Return the address of another of its databases."""
        return self.url_at(f"hitledger:{ENCODED}", self.tls_port, number)

    @property
    def client(self) -> redis.Redis:
        """The administrator's client."""
        return redis.Redis(
            unix_socket_path=str(self.socket), username="administrator", password="everything", decode_responses=True
        )

    def proxy(self) -> Proxy:
        """Return a proxy before it, with the same door."""
        return GuardedProxy(self)


def start_valkey(directory: Path, *options: str) -> Valkey:
    """Start a Valkey, behind the door with GUARDED=1; its user sees keys that begin with test-."""
    return (GuardedValkey if GUARDED else Valkey)(directory, *options)


class GuardedProxy(Proxy):
    """A proxy with the door of the server behind it: it speaks TLS, wants a certificate, and passes logins on."""

    def __init__(self, server: GuardedValkey) -> None:
        self._guarded = server
        door = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(server.certificates.authority))
        door.verify_mode = ssl.CERT_REQUIRED
        door.load_cert_chain(server.certificates.server, server.certificates.server_key)
        super().__init__(server.socket, door=door)

    @property
    def url(self) -> str:
        """The address of the service's own user at the proxy."""
        return self._guarded.url_at(f"hitledger:{ENCODED}", self.port)

    def client(self, seconds: float = 5) -> redis.Redis:
        """Return the administrator's client behind it."""
        url = self._guarded.url_at("administrator:everything", self.port)
        return redis.Redis.from_url(url, socket_timeout=seconds, **CAREFUL)


def guarded(settings: Settings, issuer: LocalIssuer) -> Settings:
    """Return settings with which a service asks for the issuer's tokens."""
    return replace(settings, **issuer.settings)


@contextmanager
def tokens_sent(issuer: LocalIssuer) -> Iterator[None]:
    """Have every client of a service that trusts the issuer send its token."""
    patch = pytest.MonkeyPatch()
    plain = FlaskClient.open

    def send(client: FlaskClient, *words: Any, **options: Any) -> TestResponse:
        settings = getattr(client.application.extensions.get("hitledger"), "settings", None)
        if getattr(settings, "auth", None) == "oidc" and getattr(settings, "oidc_issuer", None) == issuer.url:
            client.environ_base.setdefault("HTTP_AUTHORIZATION", f"Bearer {issuer.access()}")
        return plain(client, *words, **options)

    patch.setattr(FlaskClient, "open", send)
    with suppress(GeneratorExit):
        yield
    patch.undo()
