"""Connections to the servers that keep the ledger: one, a cluster, or what Sentinel watches.

A shard's keys share the hash tag `{shard}`, so that each shard has one primary. Who that is
may change at any time: whatever goes wrong on a connection makes the next caller look anew,
at most every `LOOK_SECONDS`. Nothing is repeated here: what was posted may have been booked
although the connection broke, and only the watermark can tell.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import redis
from redis.crc import key_slot

from hitledger.addresses import CLUSTER, ONE, Address, Node, read_address
from hitledger.aof import NotReadyError, UnsafeServerError
from hitledger.clients import Clients
from hitledger.cluster import ClusterDirectory
from hitledger.errors import LedgerError, LedgerMismatchError, LedgerUnavailableError
from hitledger.forks import tell_of_forks
from hitledger.sentinel import SentinelDirectory

log = logging.getLogger("hitledger.ledger")

LOOK_SECONDS = 0.1
"""Least time between two looks for who is in charge."""

NOT_NOW = frozenset({
    "LOADING", "BUSY", "READONLY", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "CLUSTERDOWN",
    "TRYAGAIN", "MOVED", "ASK", "UNBLOCKED",
})  # fmt: skip
"""The codes of a server that cannot do it now but may be able to later."""


@dataclass(frozen=True)
class Server:
    """One server of the ledger: what to call it, whether it is a primary, and a client of it."""

    name: str
    primary: bool
    client: redis.Redis


class Connections(Protocol):
    """What the ledger needs of its servers. Every method but `close` may raise LedgerError."""

    kind: str
    """What the address names: one server, a cluster, Sentinel."""
    default_shards: int
    """Shards of a ledger that is made here, where nobody says how many."""

    def reader(self, shard: int) -> redis.Redis:
        """Return a client for reading a shard; safe to share among threads, but not to keep."""

    def poster(self, shard: int) -> redis.Redis:
        """Return the client whose one connection posts to a shard; not to keep."""

    def keeper(self, key: str) -> redis.Redis:
        """Return the posting client for a key that is in no shard."""

    def servers(self) -> list[Server]:
        """Return all servers, primaries first."""

    def close(self) -> None:
        """Close every connection."""


class SingleServer:
    """One Redis or Valkey server that holds every shard."""

    kind = ONE
    default_shards = 1

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._name = parts.netloc.rpartition("@")[2] or parts.path
        self._clients = Clients.of(url)

    def reader(self, shard: int) -> redis.Redis:
        """Return the shared reading client."""
        del shard
        return self._clients.reader

    def poster(self, shard: int) -> redis.Redis:
        """Return the posting client."""
        del shard
        return self._clients.poster

    def keeper(self, key: str) -> redis.Redis:
        """Return the posting client."""
        del key
        return self._clients.poster

    def servers(self) -> list[Server]:
        """Return the server."""
        return [Server(self._name, primary=True, client=self._clients.reader)]

    def close(self) -> None:
        """Close every connection."""
        self._clients.close()


class Directory(Protocol):
    """Knows which server is in charge of what. Every method may raise redis.RedisError."""

    default_shards: int

    def refresh(self) -> None:
        """Find out anew."""

    def primary_of(self, slot: int) -> Node:
        """Return the primary of a hash slot, as last found out."""

    def nodes(self) -> list[tuple[Node, bool]]:
        """Return every server and whether it is a primary, as last found out."""

    def forget(self) -> None:
        """Start anew in a process that was forked off."""

    def close(self) -> None:
        """Close every connection."""


class ManyServers:
    """The servers that a directory names."""

    def __init__(self, address: Address, directory: Directory) -> None:
        self.kind = address.kind
        self.default_shards = directory.default_shards
        self._address = address
        self._directory = directory
        self._start_anew()
        tell_of_forks(self)

    def _start_anew(self) -> None:
        self._clients: dict[Node, Clients] = {}
        self._trouble = True
        self._known = False
        self._failure = redis.RedisError()
        self._looked_at = float("-inf")
        self._looking = threading.Lock()

    def reader(self, shard: int) -> redis.Redis:
        """Return the reading client of the shard's primary."""
        return self._clients_of(f"{{{shard}}}").reader

    def poster(self, shard: int) -> redis.Redis:
        """Return the posting client of the shard's primary."""
        return self._clients_of(f"{{{shard}}}").poster

    def keeper(self, key: str) -> redis.Redis:
        """Return the posting client of the key's primary."""
        return self._clients_of(key).poster

    def servers(self) -> list[Server]:
        """Return every server, primaries first."""
        with server_errors():
            self._look()
            nodes = sorted(self._directory.nodes(), key=lambda found: (not found[1], found[0]))
            return [Server(str(node), primary, self._clients_at(node).reader) for node, primary in nodes]

    def close(self) -> None:
        """Close every connection."""
        for clients in self._clients.values():
            clients.close()
        self._directory.close()

    def _clients_of(self, key: str) -> Clients:
        with server_errors():
            self._look()
            return self._clients_at(self._directory.primary_of(key_slot(key.encode())))

    def _clients_at(self, node: Node) -> Clients:
        found = self._clients.get(node)
        if found is None:
            # Two threads may both make one; all use the one that was there first.
            found = self._clients.setdefault(node, Clients.of(self._address.url_of(node), self._note_trouble))
        return found

    def _note_trouble(self) -> None:
        self._trouble = True

    def _look(self) -> None:
        """Find out who is in charge, if there was trouble since; the last answer holds where nobody can say."""
        if self._known and not self._trouble:
            return
        if not self._looking.acquire(blocking=not self._known):
            return  # another thread is at it: go on with what was known
        try:
            if self._trouble and time.monotonic() - self._looked_at >= LOOK_SECONDS:
                self._look_now()
            if not self._known:
                raise self._failure
        finally:
            self._looking.release()

    def _look_now(self) -> None:
        self._trouble = False  # trouble from here on calls for another look
        try:
            self._directory.refresh()
            self._known = True
        except redis.RedisError as error:
            self._trouble = True
            self._failure = error
            log.debug("nobody says which servers hold the ledger now: %s", type(error).__name__)
        finally:
            self._looked_at = time.monotonic()

    def after_fork_in_child(self) -> None:
        """Let go of what is the parent's, and begin anew."""
        self._directory.forget()
        self._start_anew()


def connect(url: str) -> Connections:
    """Return the connections that a ledger's address asks for; nothing is sent yet."""
    address = read_address(url)
    if address.kind == ONE:
        return SingleServer(address.url)
    return ManyServers(address, ClusterDirectory(address) if address.kind == CLUSTER else SentinelDirectory(address))


@contextmanager
def server_errors() -> Iterator[None]:
    """Turn what redis-py raises into the ledger's own errors, without the server's address.

    Raises:
        LedgerUnavailableError: it cannot be reached, or cannot do it now.
        LedgerError: it refused for good: a wrong password, a right that is missing.
    """
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise as_ledger_error(error) from error


def as_ledger_error(error: Exception) -> LedgerError:
    """Return the ledger's own error for one of redis-py's."""
    if isinstance(error, redis.AuthenticationError):
        return LedgerError("The ledger refused the user name or password.", "Check HITLEDGER_REDIS_URL.")
    if isinstance(error, NotReadyError):
        return LedgerUnavailableError(str(error), "It is tried again.")
    if isinstance(error, UnsafeServerError):
        return LedgerMismatchError("The ledger's server may double counts after two crashes.", str(error))
    if isinstance(error, redis.ResponseError | redis.BusyLoadingError):
        return refused(error)
    return LedgerUnavailableError(
        "The ledger cannot be reached.", "Counting goes on in the journal and is posted when it is back."
    )


def refused(error: redis.RedisError) -> LedgerError:
    """Return the ledger's own error for an error reply."""
    # redis-py cuts the code off the text where it has a class of its own for it.
    code = error.status_code or str(error).split(" ")[0]
    if code in NOT_NOW:
        return LedgerUnavailableError(f"The ledger cannot do it now: {code}.", "It is tried again.")
    return LedgerError(f"The ledger refused a command: {code} {str(error).removeprefix(code)[:200].strip()}")
