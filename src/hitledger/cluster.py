"""A Redis or Valkey Cluster: which node is the primary of which hash slot.

redis-py's cluster client finds out and nothing else: no command of ours goes through it,
because its pipeline takes no scripts, and because its WAITAOF asks any node it likes.
"""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from hitledger.addresses import Address, Node
from hitledger.clients import connection_options


class ClusterDirectory:
    """The map of a cluster's slots, as the first node that answers has it."""

    default_shards = 64

    def __init__(self, address: Address) -> None:
        self._address = address
        self._cluster: RedisCluster | None = None

    def refresh(self) -> None:
        """Ask for the map. Raises redis.RedisError."""
        try:
            if self._cluster is None:
                self._cluster = self._connect()
            else:
                # Our own addresses are asked first, then whatever the cluster has grown to.
                known = [(node.host, node.port) for node in self._cluster.get_nodes()]
                self._cluster.nodes_manager.initialize(additional_startup_nodes_info=known)
        except RedisClusterException as error:
            raise _plain(error) from error

    def _connect(self) -> RedisCluster:
        first, *rest = self._address.nodes
        options: dict[str, Any] = connection_options(self._address.url_of(first))
        for known in ("host", "port", "db"):
            options.pop(known, None)
        return RedisCluster(
            url=self._address.url_of(first),
            startup_nodes=[ClusterNode(node.host, node.port) for node in rest],
            # A part of the cluster that is down must not hide the rest.
            require_full_coverage=False,
            dynamic_startup_nodes=False,
            retry=Retry(NoBackoff(), 0),
            **options,
        )

    def primary_of(self, slot: int) -> Node:
        """Return the primary of a hash slot. Raises redis.RedisError where it has none."""
        assert self._cluster
        try:
            node = self._cluster.nodes_manager.get_node_from_slot(slot)
        except RedisClusterException as error:
            raise redis.ConnectionError(f"no node has the hash slot {slot}") from error
        return Node(node.host, int(node.port))

    def nodes(self) -> list[tuple[Node, bool]]:
        """Return every node, and whether it is a primary."""
        assert self._cluster
        nodes = self._cluster.get_nodes()
        return sorted((Node(node.host, int(node.port)), node.server_type == "primary") for node in nodes)

    def forget(self) -> None:
        """Start anew in a process that was forked off."""
        self._cluster = None

    def close(self) -> None:
        """Close every connection."""
        if self._cluster is not None:
            self._cluster.close()


def _plain(error: RedisClusterException) -> redis.RedisError:
    """Return the reason behind the cluster client's own exception, which hides what a node has said."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, redis.RedisError):
            return found
        found = found.__cause__ or found.__context__
    return redis.ConnectionError(str(error))
