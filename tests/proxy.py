"""A TCP proxy before a Redis or Valkey server that does to commands and replies what networks do.

It reads both directions command by command and reply by reply, so that a fault hits an exact
place: a reply that is lost after its script has run, half a reply, an error instead of an
answer. It runs on a thread of its own; its methods may be called from any.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER's value that makes closing a reset."""
CAREFUL: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "protocol": 2}
"""How a client speaks that a fault is shown to: nothing is tried twice."""
Target = Path | tuple[str, int]


@dataclass(frozen=True)
class Rule:
    """What is done to commands of these names, all where none is named; `left` times at most."""

    kind: str = "pass"
    names: frozenset[bytes] = frozenset()
    seconds: float = 0.0
    error: bytes = b""
    left: int = 2**31

    def concerns(self, name: bytes) -> bool:
        """Tell whether a command of that name is meant."""
        return not self.names or name in self.names


PASS = Rule()


class Proxy:
    """Stand before one server. Without a fault set, everything passes unchanged.

    With `door`, clients come in by TLS, and the proxy reads and passes on what they say there.
    """

    def __init__(self, target: Target, port: int = 0, *, door: ssl.SSLContext | None = None) -> None:
        self._target = target
        self._rule = PASS
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._wake = asyncio.Event()
        self.hits = 0
        """Commands that a rule was applied to."""
        self._listener = socket.create_server(("127.0.0.1", port), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._server = self._loop.run_until_complete(asyncio.start_server(self._accept, sock=self._listener, ssl=door))
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The proxy's address, as HITLEDGER_REDIS_URL takes it."""
        return f"redis://127.0.0.1:{self.port}"

    def client(self, seconds: float = 5) -> redis.Redis:
        """Return a client behind it that may do everything, waits so long and tries nothing twice."""
        return redis.Redis(port=self.port, socket_timeout=seconds, **CAREFUL)

    # Faults; each stays until the next one or `heal`, or for as many commands as it says

    def heal(self) -> None:
        """Pass everything on again; what was held back goes first."""
        self._set(PASS)

    def hold(self) -> None:
        """Let nothing through in either direction; it arrives late, when healed, as TCP sends it again."""
        self._set(Rule("hold"))

    def delay(self, seconds: float) -> None:
        """Let every command wait."""
        self._set(Rule("delay", seconds=seconds))

    def refuse(self) -> None:
        """Reset every connection, those there and those to come."""
        self._set(Rule("refuse"))
        self.reset_all()

    def answer(self, error: str, *names: str) -> None:
        """Answer commands of these names with an error reply, instead of passing them on."""
        self._set(Rule("answer", _names(names), error=f"-{error}\r\n".encode()))

    def lose_replies(self, *names: str, times: int = 2**31) -> None:
        """Pass commands on, and reset the connection where the server has answered: the outcome is unknown."""
        self._set(Rule("lose", _names(names), left=times))

    def tear_replies(self, *names: str, times: int = 2**31) -> None:
        """As `lose_replies`, with the first half of the reply sent."""
        self._set(Rule("tear", _names(names), left=times))

    def tear_commands(self, *names: str, times: int = 2**31) -> None:
        """Pass on the first half of a command, and reset both sides."""
        self._set(Rule("half", _names(names), left=times))

    def reset_all(self) -> None:
        """Reset every connection that there is now."""
        self._do(self._reset_all)

    def close(self) -> None:
        """End the proxy and every connection."""
        self._loop.call_soon_threadsafe(self._loop.create_task, self._end())
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Behind the door

    def _set(self, rule: Rule) -> None:
        def change() -> None:
            self._rule = rule
            wake, self._wake = self._wake, asyncio.Event()
            wake.set()

        self._do(change)

    def _do(self, work: Callable[[], None]) -> None:
        """Do it on the proxy's own thread, and return when it is done."""
        done = threading.Event()
        self._loop.call_soon_threadsafe(work)
        self._loop.call_soon_threadsafe(done.set)
        done.wait()

    def take_rule(self, name: bytes) -> Rule:
        """Return what is to be done to a command now, and count it."""
        rule = self._rule
        if rule.kind == "pass" or not rule.concerns(name):
            return PASS
        self.hits += 1
        left = rule.left - 1
        self._rule = replace(rule, left=left) if left else PASS
        return rule

    async def passage(self) -> None:
        """Wait while everything is held back."""
        while self._rule.kind == "hold":
            await self._wake.wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._rule.kind == "refuse":
            _reset(writer)
            return
        try:
            if isinstance(self._target, Path):
                upstream = await asyncio.open_unix_connection(str(self._target))
            else:
                upstream = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(writer)
            return
        link = _Link(self, (reader, writer), upstream)
        self._links.add(link)
        with suppress(asyncio.CancelledError):  # the proxy ends
            await link.run()
        self._links.discard(link)

    def _reset_all(self) -> None:
        for link in list(self._links):
            link.reset()

    async def _end(self) -> None:
        self._server.close()
        self._reset_all()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loop.stop()


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    """One client's connection, and the one to the server behind it."""

    def __init__(self, proxy: Proxy, client: Streams, server: Streams) -> None:
        self._proxy = proxy
        self._client, self._to_client = client
        self._server, self._to_server = server
        # What each reply that is still to come is for: its rule, or the error that stands in its place.
        self._expected: deque[Rule] = deque()

    async def run(self) -> None:
        """Pass on until either side ends."""
        pumps = [asyncio.create_task(self._commands()), asyncio.create_task(self._replies())]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for writer in (self._to_client, self._to_server):
                writer.transport.abort()

    def reset(self) -> None:
        """Reset both sides."""
        for writer in (self._to_client, self._to_server):
            _reset(writer)

    async def _commands(self) -> None:
        held = b""
        while data := await self._client.read(2**18):
            held += data
            while (end := end_of(held)) > 0:
                command, held = held[:end], held[end:]
                await self._proxy.passage()
                rule = self._proxy.take_rule(name_of(command))
                if rule.kind == "delay":
                    await asyncio.sleep(rule.seconds)
                if rule.kind == "half":
                    self._to_server.write(command[: len(command) // 2])
                    with suppress(ConnectionError):
                        await self._to_server.drain()
                    _reset(self._to_client)
                    return
                self._expected.append(rule)
                if rule.kind == "answer":
                    self._write_errors()
                else:
                    self._to_server.write(command)

    async def _replies(self) -> None:
        held = b""
        while data := await self._server.read(2**18):
            held += data
            while (end := end_of(held)) > 0:
                reply, held = held[:end], held[end:]
                await self._proxy.passage()
                rule = self._expected.popleft() if self._expected else PASS
                if rule.kind == "tear":
                    self._to_client.write(reply[: len(reply) // 2])
                if rule.kind in ("lose", "tear"):
                    # After a turn of the loop, so that the half reply is out before the reset.
                    await asyncio.sleep(0)
                    self.reset()
                    return
                self._to_client.write(reply)
                self._write_errors()

    def _write_errors(self) -> None:
        while self._expected and self._expected[0].kind == "answer":
            self._to_client.write(self._expected.popleft().error)


def end_of(data: bytes, at: int = 0) -> int:
    """Return where the RESP value that begins at `at` ends; -1 where it is not all there."""
    line = data.find(b"\r\n", at)
    if line < 0:
        return -1
    kind, after = data[at : at + 1], line + 2
    if kind in b"$=!":
        length = int(data[at + 1 : line])
        end = after if length < 0 else after + length + 2
        return end if end <= len(data) else -1
    if kind in b"*~>%":
        for _ in range(int(data[at + 1 : line]) * (2 if kind == b"%" else 1)):
            after = end_of(data, after)
            if after < 0:
                return -1
    return after


def name_of(command: bytes) -> bytes:
    """Return a command's name, in capitals."""
    words = command.split(b"\r\n", 3)
    return (words[2] if words[0].startswith(b"*") else words[0].split(b" ")[0]).upper()


def _names(names: tuple[str, ...]) -> frozenset[bytes]:
    return frozenset(name.encode().upper() for name in names)


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with suppress(OSError):  # a Unix socket cannot reset, or it is gone already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
