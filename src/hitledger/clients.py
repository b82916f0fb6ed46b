"""Clients of single servers, as every kind of ledger needs them.

Readers share a pool and may try once more. A poster has one connection and never retries:
an unknown outcome is settled by the watermark, and a WAITAOF answers for the writes of its
own connection only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.exceptions import AskError, ClusterDownError, ReadOnlyError, TryAgainError
from redis.retry import Retry

from hitledger.aof import demand_sound_aof

CONNECT_SECONDS = 1.0
COMMAND_SECONDS = 2.0
READERS = 64
"""Reading connections to one server, at most."""

TROUBLE = (redis.ConnectionError, redis.TimeoutError, AskError, ClusterDownError, ReadOnlyError, TryAgainError)
"""What a server says, or does not say, when another one may be in charge by now."""


def no_trouble() -> None:
    """Do nothing: a single server has no other to look for."""


@dataclass(frozen=True)
class Clients:
    """The two clients of one server."""

    reader: redis.Redis
    poster: redis.Redis

    @classmethod
    def of(cls, url: str, on_trouble: Callable[[], None] = no_trouble) -> Clients:
        """Return the clients of the server at a redis://, rediss:// or unix:// address; nothing is sent yet."""
        once_more = Retry(ExponentialBackoff(cap=0.1, base=0.01), 1)
        return cls(
            _client(url, READERS, retry=once_more, on_trouble=on_trouble, demand=None),
            _client(url, 1, retry=Retry(NoBackoff(), 0), on_trouble=on_trouble, demand=demand_sound_aof),
        )

    def close(self) -> None:
        """Close every connection."""
        self.reader.close()
        self.poster.close()


class _Watched(AbstractConnection):
    """A connection that tells when there is trouble, and may demand something of a server before its first use."""

    def __init__(
        self, *, on_trouble: Callable[[], None], demand: Callable[[AbstractConnection], None] | None, **options: Any
    ) -> None:
        self._on_trouble = on_trouble
        self._demand = demand
        super().__init__(**options)

    def connect_check_health(self, *words: Any, **options: Any) -> None:
        try:
            super().connect_check_health(*words, **options)
        except redis.RedisError:
            self._on_trouble()
            raise

    def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's
        super().on_connect_check_health(check_health)
        if self._demand:
            self._demand(self)

    def send_packed_command(self, *words: Any, **options: Any) -> None:
        try:
            super().send_packed_command(*words, **options)  # type: ignore[no-untyped-call]
        except redis.RedisError:
            self._on_trouble()
            raise

    def read_response(self, *words: Any, **options: Any) -> Any:
        try:
            return super().read_response(*words, **options)
        except TROUBLE:
            self._on_trouble()
            raise


class _WatchedPlain(_Watched, Connection):
    """One by TCP."""


class _WatchedTLS(_Watched, SSLConnection):
    """One by TCP with TLS."""


class _WatchedUnix(_Watched, UnixDomainSocketConnection):
    """One on a Unix socket."""


_WATCHED = {Connection: _WatchedPlain, SSLConnection: _WatchedTLS, UnixDomainSocketConnection: _WatchedUnix}


def connection_options(url: str) -> dict[str, Any]:
    """Return redis-py's options for an address: those of the address itself, and ours where it has none."""
    return {
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": COMMAND_SECONDS,
        "decode_responses": True,
        "encoding_errors": "backslashreplace",
        "protocol": 2,
        **parse_url(url),
    }


def _client(url: str, connections: int, **watching: Any) -> redis.Redis:
    options = connection_options(url)
    options["connection_class"] = _WATCHED[options.get("connection_class", Connection)]
    options["max_connections"] = connections
    pool = redis.BlockingConnectionPool(timeout=COMMAND_SECONDS, **options, **watching)
    return redis.Redis(connection_pool=pool)
