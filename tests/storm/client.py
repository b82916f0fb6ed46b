"""The storm's client: keep-alive connections that send as fast as they are answered, and an exact tally.

Run as a program it goes on until its standard input ends, tells every half second how many
requests it has sent, and then writes its tally as JSON.

A request is *answered* from the first byte of its answer on: the hit must be in the journal
before that. It is *broken* when its connection ends without one: it may have been counted,
once at most. It is neither when not a byte of it was sent.
"""

from __future__ import annotations

import argparse
import errno
import json
import select
import socket
import sys
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

from tests.storm.requests import READING, Request, mixed, simulated

RETRY_SECONDS = 0.02
MOST_WAIT_SECONDS = 0.05
TELL_SECONDS = 0.5
DRAIN_SECONDS = 30.0
READER_PAUSE_SECONDS = 0.15
MOST_UNEXPECTED = 20


@dataclass
class Tally:
    """What became of the requests, by the URL or line that each counts under."""

    answered: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    wrong: int = 0
    """Answers with a status that the request should not get."""
    unexpected: list[str] = field(default_factory=list)
    """The first few of them."""

    def as_json(self) -> dict[str, object]:
        """Return it as a JSON document."""
        return {name: getattr(self, name) for name in ("answered", "broken", "sent", "wrong", "unexpected")}


class _Connection:
    """One keep-alive connection: its socket, and the request it waits for an answer to."""

    __slots__ = ("asked_at", "buffer", "pause", "request", "requests", "seen", "socket")

    def __init__(self, requests: Iterator[Request], pause: float) -> None:
        self.requests = requests
        self.pause = pause
        self.socket: socket.socket | None = None
        self.request: Request | None = None
        self.seen = False
        self.buffer = b""
        self.asked_at = 0.0


class Client:
    """Sends on all connections at once. `run` returns when `stop` was called and all is answered or broken.

    With `timed`, `times` holds pairs of when a request was sent and how long its answer took.
    """

    def __init__(self, port: int, *, timed: bool = False) -> None:
        self.tally = Tally()
        self.times = array("d")
        self._address = ("127.0.0.1", port)
        self._timed = timed
        self._epoll = select.epoll()
        self._open: dict[int, _Connection] = {}
        self._due: list[tuple[float, _Connection]] = []
        self._stopped_at = float("inf")

    def add(self, requests: Iterator[Request], connections: int = 1, pause: float = 0.0) -> None:
        """Add connections that draw from the same requests, each with a pause after every answer."""
        for _ in range(connections):
            self._due.append((0.0, _Connection(requests, pause)))

    def stop(self) -> None:
        """Send no more."""
        self._stopped_at = min(self._stopped_at, time.monotonic())

    def run(self, stop_on: int = -1) -> Tally:
        """Go on until stopped; `stop_on` is a descriptor whose end stops it, too."""
        if stop_on >= 0:
            self._epoll.register(stop_on, select.EPOLLIN | select.EPOLLHUP)
        told = 0.0
        while True:
            now = time.monotonic()
            self._begin_due(now)
            if self._stopped_at <= now and not self._waiting(now):
                break
            for number, events in self._epoll.poll(self._patience(now)):
                if number == stop_on:
                    self._epoll.unregister(stop_on)
                    self.stop()
                elif number in self._open:
                    self._handle(self._open[number], events)
            if stop_on >= 0 and now - told > TELL_SECONDS:
                told = now
                sys.stdout.write(f"{now} {self.tally.sent}\n")
                sys.stdout.flush()
        for connection in list(self._open.values()):
            self._break(connection)
        self._epoll.close()
        return self.tally

    def _patience(self, now: float) -> float:
        """Return how long may be waited for a socket, in seconds, before the next connection is due."""
        return max(0.0, min(MOST_WAIT_SECONDS, min((at for at, _ in self._due), default=now + 1.0) - now))

    def _waiting(self, now: float) -> bool:
        return now - self._stopped_at < DRAIN_SECONDS and any(each.request for each in self._open.values())

    def _begin_due(self, now: float) -> None:
        due = [connection for at, connection in self._due if at <= now]
        self._due = [(at, connection) for at, connection in self._due if at > now]
        for connection in due:
            if self._stopped_at <= now:
                continue
            if connection.socket is None:
                self._connect(connection)
            else:
                self._send(connection)

    def _connect(self, connection: _Connection) -> None:
        connection.socket = link = socket.socket()
        link.setblocking(False)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open[link.fileno()] = connection
        self._epoll.register(link, select.EPOLLIN | select.EPOLLOUT)
        if link.connect_ex(self._address) not in (0, errno.EINPROGRESS):
            self._break(connection)

    def _handle(self, connection: _Connection, events: int) -> None:
        assert connection.socket
        if connection.request:
            self._receive(connection, connection.socket)
        elif events & (select.EPOLLERR | select.EPOLLHUP | select.EPOLLIN):
            self._break(connection)
        else:
            self._epoll.modify(connection.socket, select.EPOLLIN)
            self._send(connection)

    def _send(self, connection: _Connection) -> None:
        if self._stopped_at < float("inf"):
            self._break(connection)
            return
        assert connection.socket
        request = next(connection.requests)
        connection.asked_at = time.monotonic()
        try:
            sent = connection.socket.send(request.data)
        except OSError:
            self._break(connection)  # not a byte of it left
            return
        connection.request = request
        self.tally.sent += 1
        assert sent == len(request.data)

    def _receive(self, connection: _Connection, link: socket.socket) -> None:
        request = connection.request
        assert request
        try:
            data = link.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._break(connection)
            return
        if not connection.seen:
            connection.seen = True
            self.tally.answered[request.key] += 1
        if connection.buffer:
            data = connection.buffer + data
        if not _is_whole(data, has_body=request.has_body):
            connection.buffer = data
            return
        if data[9:12] not in request.statuses:
            self._note_wrong(request, data)
        self._answered(connection)

    def _answered(self, connection: _Connection) -> None:
        connection.buffer, connection.seen, connection.request = b"", False, None
        if self._timed:
            self.times.append(connection.asked_at)
            self.times.append(time.monotonic() - connection.asked_at)
        if connection.pause:
            self._due.append((time.monotonic() + connection.pause, connection))
        else:
            self._send(connection)

    def _note_wrong(self, request: Request, data: bytes) -> None:
        self.tally.wrong += 1
        if len(self.tally.unexpected) < MOST_UNEXPECTED:
            self.tally.unexpected.append(f"{request.data[:60]!r}: {data[:400]!r}")

    def _break(self, connection: _Connection) -> None:
        if connection.request and not connection.seen:
            self.tally.broken[connection.request.key] += 1
        connection.buffer, connection.seen, connection.request = b"", False, None
        assert connection.socket
        del self._open[connection.socket.fileno()]
        connection.socket.close()
        connection.socket = None
        self._due = [(at, each) for at, each in self._due if each is not connection]
        self._due.append((time.monotonic() + RETRY_SECONDS, connection))


def _is_whole(data: bytes, *, has_body: bool) -> bool:
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return False
    at = data.find(b"content-length: ", 0, head) if has_body else -1
    length = int(data[at + 16 : data.index(b"\r", at)]) if at >= 0 else 0
    return len(data) >= head + 4 + length


def main() -> None:
    """Send to a port of this machine until standard input ends; write the tally to a file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--connections", type=int, default=12)
    parser.add_argument("--tally", type=Path, required=True)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between an answer and the next request")
    parser.add_argument("--times", type=Path, help="ask for /api/ only, and write how long each answer took")
    chosen = parser.parse_args()
    client = Client(chosen.port, timed=bool(chosen.times))
    if chosen.times:
        client.add(simulated(chosen.seed), chosen.connections, chosen.pause)
    else:
        client.add(mixed(chosen.seed), chosen.connections, chosen.pause)
        client.add(repeat(READING), 1, READER_PAUSE_SECONDS)
    tally = client.run(stop_on=sys.stdin.fileno())
    chosen.tally.write_text(json.dumps(tally.as_json()))
    if chosen.times:
        chosen.times.write_bytes(client.times.tobytes())


if __name__ == "__main__":
    main()
