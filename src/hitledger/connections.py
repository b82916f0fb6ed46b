"""Connections to the server that keeps the ledger.

Readers share a pool and may try once more. Posting has one connection of its own to each
shard's primary and never retries: an unknown outcome is settled by the watermark, and a
WAITAOF answers for the writes of its own connection only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry

from hitledger.errors import LedgerError, LedgerUnavailableError

CONNECT_SECONDS = 1.0
COMMAND_SECONDS = 2.0

NOT_NOW = (
    "LOADING", "BUSY", "READONLY", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "CLUSTERDOWN",
    "TRYAGAIN", "MOVED", "ASK", "UNBLOCKED", "max number of clients",
)  # fmt: skip
"""How the errors begin of a server that cannot do it now but may be able to later."""


class Connections(Protocol):
    """What the ledger needs of a server, or of several: a client for each shard."""

    def reader(self, shard: int) -> redis.Redis:
        """Return a client for reading a shard; safe to share among threads."""

    def poster(self, shard: int) -> redis.Redis:
        """Return the client whose one connection posts to a shard; used by one thread at a time."""

    def close(self) -> None:
        """Close every connection."""


class SingleServer:
    """One Redis or Valkey server that holds every shard."""

    def __init__(self, url: str, *, readers: int = 64) -> None:
        self._reader = _client(url, Retry(ExponentialBackoff(cap=0.1, base=0.01), 1), connections=readers)
        self._poster = _client(url, Retry(NoBackoff(), 0), connections=1)

    def reader(self, shard: int) -> redis.Redis:
        """Return the shared reading client."""
        del shard
        return self._reader

    def poster(self, shard: int) -> redis.Redis:
        """Return the posting client."""
        del shard
        return self._poster

    def close(self) -> None:
        """Close every connection."""
        self._reader.close()
        self._poster.close()


def _client(url: str, retry: Retry, *, connections: int) -> redis.Redis:
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=COMMAND_SECONDS,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=COMMAND_SECONDS,
        retry=retry,
        decode_responses=True,
        encoding_errors="backslashreplace",
        protocol=2,
    )
    return redis.Redis(connection_pool=pool)


def connect(url: str) -> Connections:
    """Return the connections that a ledger's address asks for; nothing is sent yet."""
    return SingleServer(url)


@contextmanager
def server_errors() -> Iterator[None]:
    """Turn what redis-py raises into the ledger's own errors, without the server's address.

    Raises:
        LedgerUnavailableError: it cannot be reached, or cannot do it now.
        LedgerError: it refused for good: a wrong password, a right that is missing.
    """
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        if isinstance(error, redis.AuthenticationError):
            raise LedgerError("The ledger refused the user name or password.", "Check HITLEDGER_REDIS_URL.") from error
        raise LedgerUnavailableError(
            "The ledger cannot be reached.", "Counting goes on in the journal and is posted when it is back."
        ) from error
    except redis.ResponseError as error:
        raise refused(error) from error


def refused(error: redis.ResponseError) -> LedgerError:
    """Return the ledger's own error for an error reply."""
    text = str(error)
    if text.startswith(NOT_NOW):
        return LedgerUnavailableError(
            f"The ledger cannot do it now: {text.split(maxsplit=1)[0]}.", "It is tried again."
        )
    return LedgerError(f"The ledger refused a command: {text[:200]}")
