"""Addresses of a ledger's servers: one, a cluster, or a primary that Sentinel watches.

    redis://[user:password@]host[:port][/db]                          one server; rediss:// with TLS
    unix:///path/to/socket[?db=n]                                     one server on this machine
    redis+cluster://[user:password@]host[:port][,host[:port]...]      any of a cluster's nodes
    redis+sentinel://[user:password@]host[:port][,...]/service[/db]   the Sentinels, then the service's name

`rediss+cluster` and `rediss+sentinel` speak TLS to all of them; `valkey` in place of `redis`
means the same. Options follow a `?` as redis-py takes them (`ssl_ca_certs=...`); the Sentinels'
own user and password are `sentinel_username` and `sentinel_password` there. Needs the standard
library only.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

ONE, CLUSTER, SENTINEL = "one", "cluster", "sentinel"
SCHEMES = (
    "redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel",
)  # fmt: skip
PORTS = {CLUSTER: 6379, SENTINEL: 26379}

_SERVICE = re.compile(r"[A-Za-z0-9._-]{1,128}")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?")


class Node(NamedTuple):
    """Where one server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Address:
    """A ledger's address, read. `nodes` is empty for one server: `url` is then what redis-py takes."""

    kind: str
    url: str
    nodes: tuple[Node, ...] = ()
    service: str = ""
    sentinel_login: tuple[str | None, str | None] = (None, None)

    def url_of(self, node: Node) -> str:
        """Return the address of one of the servers that hold the ledger: same user, password and options."""
        parts = urlsplit(self.url)
        login = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{login}@{node}" if login else str(node)))


def normal_form(text: str) -> str:
    """Return an address with `redis` for `valkey`."""
    return re.sub(r"^valkey", "redis", text)


def read_address(text: str) -> Address:
    """Read an address.

    Raises:
        ValueError: it is none.
    """
    text = normal_form(text)
    parts = urlsplit(text)
    if parts.scheme not in SCHEMES or parts.fragment:
        raise ValueError(text)
    scheme, _, kind = parts.scheme.partition("+")
    if not kind:
        _ = parts.port  # raises ValueError when it is no number
        if not (parts.hostname or parts.path.strip("/")):
            raise ValueError(text)
        return Address(ONE, text)
    login, _, hosts = parts.netloc.rpartition("@")
    nodes = tuple(_read_node(host, PORTS[kind]) for host in hosts.split(","))
    options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    words = [unquote(word) for word in parts.path.strip("/").split("/")] if parts.path.strip("/") else []
    service, database = _read_path(kind, words)
    sentinel_login = (options.pop("sentinel_username", None), options.pop("sentinel_password", None))
    first = f"{login}@{nodes[0]}" if login else str(nodes[0])
    path = f"/{database}" if database else ""
    url = urlunsplit((scheme, first, path, urlencode(options, quote_via=quote), ""))
    return Address(kind, url, nodes, service, sentinel_login)


def _read_node(text: str, default_port: int) -> Node:
    found = _HOST.fullmatch(text)
    if not found:
        raise ValueError(text)
    port = int(found[2]) if found[2] else default_port
    if not 1 <= port <= 65535:
        raise ValueError(text)
    return Node(found[1].strip("[]"), port)


def _read_path(kind: str, words: list[str]) -> tuple[str, int]:
    """Return the service and the database that an address's path names."""
    if kind == CLUSTER:
        if words not in ([], ["0"]):
            raise ValueError(words)  # a cluster has one database
        return "", 0
    service, database = (*words, "0")[:2] if len(words) in (1, 2) else ("", "")
    if not _SERVICE.fullmatch(service) or not re.fullmatch(r"\d{1,5}", database):
        raise ValueError(words)
    return service, int(database)


def with_door(url: str, password: str | None, options: dict[str, str]) -> str:
    """Return an address with a password, and with redis-py's options for TLS, that it does not have yet.

    Raises:
        ValueError: it has them, or its scheme is not one of TLS. The text says what is wrong, and no secret.
    """
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    if password is not None:
        user, _, known = login.partition(":")
        if known:
            raise ValueError("holds a password already")
        login, at = f"{user}:{quote(password, safe='')}", "@"
    if options and not parts.scheme.startswith("rediss"):
        raise ValueError("begins with no scheme of TLS, such as rediss://")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if query.keys() & options.keys():
        raise ValueError(f"has {', '.join(sorted(query.keys() & options.keys()))} already")
    return urlunsplit(
        parts._replace(netloc=f"{login}{at}{hosts}", query=urlencode({**query, **options}, quote_via=quote))
    )


def is_loopback(host: str) -> bool:
    """Tell whether an address, or `localhost`, is this machine's own, so that no network is between."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def hide_password(url: str) -> str:
    """Return an address with its passwords, if any, as `***`."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    netloc = f"{user}{colon}{'***' if colon else ''}{at}{hosts}"
    query = re.sub(r"(?i)(\b\w*password=)[^&]*", r"\1***", parts.query)
    return urlunsplit(parts._replace(netloc=netloc, query=query))
