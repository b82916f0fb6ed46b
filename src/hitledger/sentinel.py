"""A primary with replicas that Sentinel watches: which server is the primary now."""

from __future__ import annotations

from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from hitledger.addresses import Address, Node
from hitledger.aof import NotReadyError
from hitledger.clients import connection_options


class SentinelDirectory:
    """The primary of one service, as the first Sentinel that answers and sees it up has it."""

    default_shards = 1

    def __init__(self, address: Address) -> None:
        options = connection_options(address.url)
        tls = address.url.startswith("rediss:")
        for other in ("host", "port", "db", "username", "password", "connection_class"):
            options.pop(other, None)
        username, password = address.sentinel_login
        options |= {"username": username, "password": password, "ssl": tls, "retry": Retry(NoBackoff(), 0)}
        self._service = address.service
        self._sentinel = Sentinel(list(address.nodes), sentinel_kwargs=options)
        self._primary: Node | None = None
        self._replicas: list[Node] = []

    def refresh(self) -> None:
        """Ask the Sentinels. Raises redis.RedisError."""
        try:
            self._primary = Node(*self._sentinel.discover_master(self._service))
        except MasterNotFoundError as error:
            raise NotReadyError(f"No Sentinel that answers knows a primary {self._service!r} that is up.") from error
        self._replicas = [Node(*each) for each in self._sentinel.discover_slaves(self._service)]

    def primary_of(self, slot: int) -> Node:
        """Return the primary: it holds every slot."""
        del slot
        assert self._primary
        return self._primary

    def nodes(self) -> list[tuple[Node, bool]]:
        """Return every server that is up, and whether it is the primary."""
        assert self._primary
        return [(self._primary, True), *((node, False) for node in self._replicas)]

    def forget(self) -> None:
        """Start anew in a process that was forked off: redis-py's pools do by themselves."""

    def close(self) -> None:
        """Close every connection."""
        self._sentinel.close()
