"""The access log: a line for each request, in the form of the other lines (`hitledger.logs`).

The lines are put together by hand: logging and structlog would take as long as counting and
measuring together. Nothing a client sends can break one: a path stands there as the URL that
it counts under, which is plain ASCII, an id only where it is well formed. The query is left
out, since clients put secrets into it.

Guarantee: a request never waits for whoever takes the lines. They are written by a thread of
their own, at most as many at once as a pipe takes as one (PIPE_BUF), so that lines of several
processes do not mix; where nobody takes them for long, they are dropped, and that is said.
"""

from __future__ import annotations

import json
import os
import re
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.util import Finalize

from hitledger.kinds import TrustedProxies
from hitledger.logs import is_for_console
from hitledger.meters import Meters
from hitledger.paths import url_of
from hitledger.settings import Settings
from hitledger.web.observed import Entry, Observations
from hitledger.web.proxies import client_address
from hitledger.web.requests import well_formed_id, well_formed_trace

STANDARD_ERROR = 2
WRITE_SECONDS = 0.1
"""How long a line waits at most before it is written."""
PATIENCE_SECONDS = 1.0
"""How long one turn waits for whoever takes the lines."""
MOST_BYTES = 4 * 2**20
"""Lines that wait for that, at most."""
MOST_AT_ONCE = select.PIPE_BUF
MOST_PATH = 1024
MOST_MIDDLES = 1000
_ADDRESS = re.compile(r"[0-9A-Za-z:.%-]{1,64}")
_PLAIN = re.compile(r"[A-Za-z0-9/._~-]+")
"""Most paths: as they are, they are their own URL."""


def observations_of(settings: Settings, meters: Meters) -> Observations:
    """Return where the service's requests are noted: always to be measured, and logged where that is asked for."""
    observations = Observations(meters)
    if settings.access_log:
        log = AccessLog(
            STANDARD_ERROR,
            observations.digest,
            console=is_for_console(settings),
            trusted_proxies=settings.trusted_proxies,
        )
        observations.log = log.take
        log.start()
    return observations


class AccessLog:
    """Writes entries to a descriptor; safe among threads and after a fork."""

    def __init__(
        self, fd: int, digest: Callable[[], None], *, console: bool, trusted_proxies: TrustedProxies = ()
    ) -> None:
        self._fd = fd
        self._trusted = trusted_proxies
        self._digest = digest
        self._form = CONSOLE if console else JSON
        self._second = 0
        self._text = ""
        self._middles: dict[tuple[str, str, str], str] = {}
        self._begin()

    def _begin(self) -> None:
        self._pid = 0
        self._lines: deque[bytes] = deque()
        self._waiting = self._dropped = 0
        self._changing = threading.Lock()
        self._writing = threading.Lock()

    def take(self, entries: list[Entry]) -> None:
        """Take entries to be written soon."""
        self.start()
        lines = [self._line(entry).encode("ascii", "backslashreplace") for entry in entries]
        with self._changing:
            for line in lines:
                if self._waiting + len(line) > MOST_BYTES:
                    self._dropped += 1
                else:
                    self._waiting += len(line)
                    self._lines.append(line)

    def start(self) -> None:
        """Begin to write in the background, where this process does not yet: also after a fork."""
        if self._pid == os.getpid():
            return
        self._begin()
        self._pid = os.getpid()
        threading.Thread(target=self._keep_writing, name="hitledger-access-log", daemon=True).start()
        # A server's process that was forked off ends without the interpreter's own last calls.
        Finalize(self, self.flush, exitpriority=10)

    def _keep_writing(self) -> None:
        while True:
            time.sleep(WRITE_SECONDS)
            self.flush()

    def flush(self) -> None:
        """Write what there is, as far as it is taken."""
        self._digest()
        with self._writing:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while self._lines and self._is_taken(deadline - time.monotonic()):
                self._write(self._chunk())
            if self._dropped and not self._lines:
                dropped, self._dropped = self._dropped, 0
                self._write(self._form.dropped(self._now(time.time_ns()), dropped).encode())

    def _is_taken(self, seconds: float) -> bool:
        return bool(select.select([], [self._fd], [], max(0.0, seconds))[1])

    def _chunk(self) -> bytes:
        with self._changing:
            chunk = self._lines.popleft()
            while self._lines and len(chunk) + len(self._lines[0]) <= MOST_AT_ONCE:
                chunk += self._lines.popleft()
            self._waiting -= len(chunk)
        return chunk

    def _write(self, chunk: bytes) -> None:
        with suppress(OSError):  # a log that nobody takes any more is no reason to fail
            os.write(self._fd, chunk)

    def _line(self, entry: Entry) -> str:
        form, path = self._form, entry.path
        if len(path) > MOST_PATH or not _PLAIN.fullmatch(path):
            path = url_of(path.encode("latin-1", "replace")[:MOST_PATH])
        client = entry.peer.removeprefix("::ffff:")  # of an IPv4 client, where the service listens on ::
        if self._trusted:
            client = client_address({"REMOTE_ADDR": client, "HTTP_X_FORWARDED_FOR": entry.forwarded}, self._trusted)
        if not _ADDRESS.fullmatch(client):  # such as that of a Unix socket
            client = "unknown"
        request_id = entry.request_id or well_formed_id(entry.given_id)
        trace_id = entry.trace_id or well_formed_trace(entry.traceparent)
        return (
            f"{form.begin}{self._now(entry.ended_ns)}{self._middle(entry)}{path}"
            f"{form.duration}{entry.took_ns / 1e6:.3f}{form.client}{client}{form.request_id}{request_id}"
            f"{form.trace_id + trace_id if trace_id else ''}{form.end}"
        )

    def _now(self, ns: int) -> str:
        second, fraction = divmod(ns, 1_000_000_000)
        if second != self._second:
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        return f"{self._text}.{fraction // 1000:06d}Z"

    def _middle(self, entry: Entry) -> str:
        """Return what is the same for all requests of a method, status and route."""
        key = entry[:3]
        found = self._middles.get(key)
        if found is None:
            if len(self._middles) >= MOST_MIDDLES:  # a client that thinks methods up
                self._middles.clear()
            found = self._middles[key] = self._form.middle(*key)
        return found


@dataclass(frozen=True)
class Form:
    """What stands between the parts of a line; `middle` makes that before the path."""

    begin: str
    middle: Callable[[str, str, str], str]
    duration: str
    client: str
    request_id: str
    trace_id: str
    end: str
    dropped: Callable[[str, int], str]
    """Returns the line that says how many were dropped."""


def _json_middle(method: str, status: str, route: str) -> str:
    return (
        '", "level": "info", "logger": "hitledger.access", "event": "request", '
        f'"method": {json.dumps(method)}, "route": {json.dumps(route)}, "status": {status}, "path": "'
    )


def _json_dropped(now: str, count: int) -> str:
    fields = {
        "timestamp": now, "level": "warning", "logger": "hitledger.access",
        "event": "lines of the access log were dropped", "dropped": count,
    }  # fmt: skip
    return json.dumps(fields) + "\n"


def _console_middle(method: str, status: str, route: str) -> str:
    shown = json.dumps(method)[1:-1]
    return f" [info] request [hitledger.access] method={shown} route={route} status={status} path="


def _console_dropped(now: str, count: int) -> str:
    return f"{now} [warning] lines of the access log were dropped [hitledger.access] dropped={count}\n"


JSON = Form(
    begin='{"timestamp": "',
    middle=_json_middle,
    duration='", "duration_ms": ',
    client=', "client": "',
    request_id='", "request_id": "',
    trace_id='", "trace_id": "',
    end='"}\n',
    dropped=_json_dropped,
)
CONSOLE = Form(
    begin="",
    middle=_console_middle,
    duration=" duration_ms=",
    client=" client=",
    request_id=" request_id=",
    trace_id=" trace_id=",
    end="\n",
    dropped=_console_dropped,
)
