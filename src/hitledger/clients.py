"""Clients of single servers, as every kind of ledger needs them.

Readers share a pool and may try once more. A poster has one connection and never retries:
an unknown outcome is settled by the watermark, and a WAITAOF answers for the writes of its
own connection only.

A server that takes commands and does not answer, or swallows connections, would make each
reader wait in vain, one thread after the other, until none is left for requests that only
count. So once anybody has waited in vain, one reader at a time tries it, and the others are
told at once.
"""

from __future__ import annotations

import threading
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
TURN_SECONDS = 0.05
"""How long a reader waits for another that tries a server which let somebody wait in vain: it may answer again."""
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
        # A connection that broke since its last use is made anew; who has waited in vain does not wait again.
        once_more = Retry(ExponentialBackoff(cap=0.1, base=0.01), 1, supported_errors=(redis.ConnectionError,))
        hang = Hang()
        reading = _options(url, READERS, hang, retry=once_more, on_trouble=on_trouble, demand=None)
        posting = _options(url, 1, hang, retry=Retry(NoBackoff(), 0), on_trouble=on_trouble, demand=demand_sound_aof)
        return cls(
            redis.Redis(connection_pool=_ReadingPool(**reading)),
            redis.Redis(connection_pool=redis.BlockingConnectionPool(**posting)),
        )

    def close(self) -> None:
        """Close every connection."""
        self.reader.close()
        self.poster.close()


class Hang:
    """Whether a server lets those who ask it wait in vain, as far as is known."""

    def __init__(self) -> None:
        self.known = False


class _ReadingPool(redis.BlockingConnectionPool):
    """Connections for readers: one at a time, while the server hangs."""

    def __init__(self, hang: Hang, **options: Any) -> None:
        self._hang = hang
        super().__init__(hang=hang, **options)  # type: ignore[no-untyped-call] # redis-py's

    def reset(self) -> None:
        """Begin anew, also in a process that was forked off while a thread of the parent's tried the server."""
        self._trying = threading.Lock()
        self._tried_on: object = None
        super().reset()  # type: ignore[no-untyped-call] # redis-py's

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """Return a connection. Raises redis.TimeoutError where the server hangs and somebody waits for it already."""
        del command_name, keys, options  # redis-py's, and of no use since its version 5.3
        if not self._hang.known:
            return super().get_connection()  # type: ignore[no-untyped-call] # redis-py's
        self._checkpid()
        if not self._trying.acquire(timeout=TURN_SECONDS):
            raise redis.TimeoutError("The server does not answer, and somebody waits for it already.")
        try:
            self._tried_on = found = super().get_connection()  # type: ignore[no-untyped-call] # redis-py's
        except BaseException:
            self._trying.release()
            raise
        return found

    def release(self, connection: Any) -> None:
        """Take a connection back, and let the next one try."""
        super().release(connection)  # type: ignore[no-untyped-call] # redis-py's
        if connection is self._tried_on:
            self._tried_on = None
            self._trying.release()


class _Watched(AbstractConnection):
    """A connection that tells when there is trouble, and may demand something of a server before its first use."""

    def __init__(
        self,
        *,
        hang: Hang,
        on_trouble: Callable[[], None],
        demand: Callable[[AbstractConnection], None] | None,
        **options: Any,
    ) -> None:
        self._hang = hang
        self._on_trouble = on_trouble
        self._demand = demand
        super().__init__(**options)

    def connect_check_health(self, *words: Any, **options: Any) -> None:
        try:
            super().connect_check_health(*words, **options)
        except redis.RedisError as error:
            self._hang.known = isinstance(error, redis.TimeoutError)
            self._on_trouble()
            raise

    def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's
        super().on_connect_check_health(check_health)
        if self._demand:
            self._demand(self)

    def send_packed_command(self, *words: Any, **options: Any) -> None:
        try:
            super().send_packed_command(*words, **options)  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            self._hang.known = isinstance(error, redis.TimeoutError)
            self._on_trouble()
            raise

    def read_response(self, *words: Any, **options: Any) -> Any:
        try:
            answer = super().read_response(*words, **options)
        except redis.RedisError as error:
            self._hang.known = isinstance(error, redis.TimeoutError)
            if isinstance(error, TROUBLE):
                self._on_trouble()
            raise
        self._hang.known = False
        return answer


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


def _options(url: str, connections: int, hang: Hang, **watching: Any) -> dict[str, Any]:
    """Return the options of a pool of watched connections."""
    options = connection_options(url)
    options["connection_class"] = _WATCHED[options.get("connection_class", Connection)]
    return {**options, "max_connections": connections, "timeout": COMMAND_SECONDS, "hang": hang, **watching}
