r"""The intake: counting for programs of other languages on this host, line by line on a Unix socket.

    client   /jobs/resize\n          one hit
             3 /jobs/resize\n        three hits, in one record
    answer   ok\n                    they are in the journal
             error <why>\n           nothing is counted

Each line has one answer, in the lines' order, so that a client may send many before it reads.

Guarantee: `ok` is sent after the record has been written to the journal, as `Counter.count`
promises it. A line without an answer, where the connection or this process broke, is counted
once or not at all. It is a stream and no datagram because a datagram that finds no room, or no
reader, is gone without a word: here the client waits, and is answered.

Leans on: Linux, where a socket that is shut down for reading still gives what is in it, and
the peer cannot send more.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hitledger.counter import Counter
from hitledger.errors import HitledgerError, ServiceError

log = logging.getLogger("hitledger.intake")

MOST_LINE_BYTES = 64 * 2**10
"""Longer lines are answered with an error; a path of that length would be (oversized) long before."""
BACKLOG = 256
"""Connections that may wait to be accepted."""
PROBE_SECONDS = 1.0

LINE = re.compile(rb"(?:([0-9]{1,10}) )?(/[^\x00-\x20\x7f]*)\r?")
OK = b"ok\n"
LOST = b"error The journal cannot be written: the hits are lost, and the balance says so.\n"
TOO_LONG = b"error A line has %d bytes at most.\n" % MOST_LINE_BYTES
NO_LINE = b"error A line is `/path` or `<hits> /path`, with spaces and control characters percent-encoded.\n"
NO_END = b"error The last line does not end, and is not counted.\n"
TOO_MANY = b"error There are too many connections; close some, or try again.\n"


@dataclass(frozen=True)
class Bounds:
    """What clients may take: connections, seconds without a line, and seconds to take their last answers at the end."""

    connections: int = 512
    idle_seconds: float = 600.0
    drain_seconds: float = 5.0


class Intake:
    """Counts the lines of all connections, in one thread."""

    def __init__(self, counter: Counter, bounds: Bounds | None = None) -> None:
        self._counter = counter
        self._bounds = bounds or Bounds()
        self._connections: set[_Connection] = set()
        self._left = asyncio.Event()

    async def run(self, listener: socket.socket, ready: Callable[[], None]) -> None:
        """Serve until SIGTERM or SIGINT; what clients have sent by then is counted and answered first."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        server = await loop.create_unix_server(lambda: _Connection(self), sock=listener, backlog=BACKLOG)
        sweeping = loop.create_task(self._sweep())
        ready()
        await stop.wait()
        server.close()
        sweeping.cancel()
        await self._drain()

    def admits(self, connection: _Connection) -> bool:
        """Take a connection in, unless there are too many."""
        if len(self._connections) >= self._bounds.connections:
            return False
        self._connections.add(connection)
        return True

    def leave(self, connection: _Connection) -> None:
        """Forget a connection that has ended."""
        self._connections.discard(connection)
        self._left.set()

    def answer(self, line: bytes) -> bytes:
        """Count one line, without its line feed, and return what its client is told."""
        if len(line) > MOST_LINE_BYTES:
            return TOO_LONG
        match = LINE.fullmatch(line)
        if not match:
            return NO_LINE
        hits, path = match.groups()
        try:
            is_counted = self._counter.count(path.decode("utf-8", "surrogateescape"), int(hits or 1))
        except HitledgerError as error:
            return f"error {error}\n".encode()
        return OK if is_counted else LOST

    async def _sweep(self) -> None:
        """End connections that have been idle for too long, until it is cancelled."""
        while True:
            await asyncio.sleep(self._bounds.idle_seconds / 4)
            oldest = asyncio.get_running_loop().time() - self._bounds.idle_seconds
            for each in [each for each in self._connections if each.heard_at < oldest]:
                each.end()

    async def _drain(self) -> None:
        for each in self._connections:
            each.end(patient=True)
        try:
            async with asyncio.timeout(self._bounds.drain_seconds):
                while self._connections:
                    self._left.clear()
                    await self._left.wait()
        except TimeoutError:
            log.warning("%d clients have not taken their answers in time", len(self._connections))
            for each in self._connections:
                each.end()


class _Connection(asyncio.Protocol):
    """One client: its unfinished line, and when it was last heard of."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._rest = b""
        self._is_stuck = False
        self.heard_at = asyncio.get_running_loop().time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if not self._intake.admits(self):
            transport.write(TOO_MANY)
            transport.close()

    def data_received(self, data: bytes) -> None:
        self.heard_at = asyncio.get_running_loop().time()
        *lines, rest = (self._rest + data).split(b"\n")
        # One byte more than a line may have: enough to know it by when its end comes.
        self._rest = rest[: MOST_LINE_BYTES + 1]
        self._transport.write(b"".join(map(self._intake.answer, lines)))

    def eof_received(self) -> None:
        # Half a path is another path.
        if self._rest:
            self._transport.write(NO_END)

    def pause_writing(self) -> None:
        # Who does not read answers must not send lines: their client waits, and our memory is bounded.
        self._is_stuck = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._is_stuck = False
        self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self._intake.leave(self)

    def end(self, *, patient: bool = False) -> None:
        """Count and answer what was sent, let nothing more be sent, and close; at once where answers are not read."""
        if self._is_stuck and not patient:
            self._transport.abort()
            return
        with suppress(OSError):  # the client is gone
            self._transport.get_extra_info("socket").shutdown(socket.SHUT_RD)


@contextmanager
def listening(path: Path, mode: int) -> Iterator[socket.socket]:
    """Listen on a Unix socket of this path and mode, which goes with the context.

    A socket that nobody listens on any more is taken over.

    Raises:
        ServiceError: somebody listens there, or it cannot be made.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            with _alone_in(path.parent):
                _clear(path)
                listener.bind(str(path))
                path.chmod(mode)  # before `listen` nobody can connect
                listener.listen(BACKLOG)
                made = path.stat()
        except OSError as error:
            raise ServiceError(
                f"The socket {path} cannot be made: {error.strerror or error}.", "Name another with --socket."
            ) from error
        try:
            yield listener
        finally:
            with suppress(OSError):
                if os.path.samestat(path.stat(), made):
                    path.unlink()


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let no other intake look at sockets in a folder meanwhile: two would take one over at once."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _clear(path: Path) -> None:
    """Delete a socket that is left over."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise ServiceError(f"{path} is there already, and is no socket.", "Name another with --socket.")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise ServiceError(f"A process listens on {path} already.", "End it, or name another with --socket.")
