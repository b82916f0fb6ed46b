"""The load generator: GET requests as fast as one core can send them.

It drives libcurl's multi interface with a fixed set of keep-alive connections. What Python
does for one request is the floor of its speed (about 20 microseconds a request in all,
libcurl included), so the inner loop calls C and little else.

Guarantee: a request is sent once. libcurl would repeat one by itself where a kept-alive
connection breaks before the answer; the server may have counted the first by then, so the
second is refused and the request counts as failed.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from typing import Protocol

import pycurl

from hitledger.errors import RunError
from hitledger.testrun.latency import Latencies

CONNECT_SECONDS = 2
REQUEST_SECONDS = 30
LOOK_SECONDS = 0.1
"""How long the loop may wait for a socket before it looks whether it has to stop."""
DRAIN_SECONDS = 0.5
"""How long requests on their way may take after a stop; then they are cut and count as failed."""
GIVE_UP_SECONDS = 60.0
"""Without any answer for so long, the target is taken to be away."""
MOST_TIMES = 10_000
"""Latencies collected before they go into the histogram, by the thousand at a tenth of the price."""


class Spans(Protocol):
    """Is told of each request, where the run is traced."""

    def begin(self, handle: pycurl.Curl, url: str) -> None:
        """Prepare a request that is about to be sent."""

    def end(self, handle: pycurl.Curl, status: int) -> None:
        """Note how it was answered; 0 where it was not."""


class Load:
    """One task's requests, and what became of them.

    `run` is called once. The counts may be read, and `stop` called, from any thread while
    it runs.
    """

    def __init__(self, urls: Iterator[str], connections: int, spans: Spans | None = None) -> None:
        self.succeeded = 0
        """Requests answered with 2xx."""
        self.failed = 0
        """Requests answered with anything else, or not at all."""
        self.seen: set[str] = set()
        """The distinct URLs requested."""
        self.latencies = Latencies()
        """How long each answer took, whatever its status; complete when `run` has returned."""
        self._urls = urls
        self._connections = connections
        self._spans = spans
        self._stopped = False
        self._times: list[int] = []
        self._busy: set[pycurl.Curl] = set()
        self._begun: set[pycurl.Curl] = set()
        self._multi = pycurl.CurlMulti()

    @property
    def sent(self) -> int:
        """Requests that were sent and have ended."""
        return self.succeeded + self.failed

    def stop(self) -> None:
        """Send no more; `run` returns within about a second."""
        self._stopped = True

    def run(self) -> None:
        """Send everything, or until stopped.

        Raises:
            RunError: the target has not answered for a minute.
        """
        self._multi.setopt(pycurl.M_MAXCONNECTS, self._connections)
        try:
            self._send_all()
        finally:
            self._cut()
            self._multi.close()

    def _send_all(self) -> None:
        for _ in range(self._connections):
            self._next(_easy_handle(self._begun))
        answered = time.monotonic()
        drained_by = float("inf")
        while self._busy:
            self._multi.perform()
            now = time.monotonic()
            if self._collect():
                answered = now
            elif now - answered > GIVE_UP_SECONDS:
                raise RunError(f"The service has not answered for {GIVE_UP_SECONDS:.0f} seconds.")
            if self._stopped:
                drained_by = min(drained_by, now + DRAIN_SECONDS)
            if now > drained_by:
                return
            if self._busy:
                self._multi.select(LOOK_SECONDS)

    def _collect(self) -> bool:
        """Book what has ended, start what comes next; tell whether anything was answered."""
        any_answered = False
        queued = 1
        while queued:
            queued, answered, broken = self._multi.info_read()
            for handle in answered:
                any_answered = True
                self._times.append(handle.getinfo(pycurl.TOTAL_TIME_T))
                status = handle.getinfo(pycurl.RESPONSE_CODE)
                if self._spans:
                    self._spans.end(handle, status)
                if 200 <= status < 300:
                    self.succeeded += 1
                else:
                    self.failed += 1
                self._multi.remove_handle(handle)
                self._next(handle)
            for handle, _number, _message in broken:
                self.failed += 1
                if self._spans:
                    self._spans.end(handle, 0)
                self._multi.remove_handle(handle)
                self._next(handle)
        if len(self._times) > MOST_TIMES:
            self._record_times()
        return any_answered

    def _next(self, handle: pycurl.Curl) -> None:
        url = None if self._stopped else next(self._urls, None)
        if url is None:
            self._busy.discard(handle)
            handle.close()
            return
        self._begun.discard(handle)
        self._busy.add(handle)
        self.seen.add(url)
        handle.setopt(pycurl.URL, url)
        if self._spans:
            self._spans.begin(handle, url)
        self._multi.add_handle(handle)

    def _record_times(self) -> None:
        self.latencies.add(self._times)
        self._times.clear()

    def _cut(self) -> None:
        for handle in self._busy:
            self.failed += 1
            if self._spans:
                self._spans.end(handle, 0)
            self._multi.remove_handle(handle)
            handle.close()
        self._busy.clear()
        self._record_times()


@cache
def _options() -> dict[int, object]:
    # The wheel's own libcurl was built elsewhere and does not know where this system keeps certificates.
    places = ssl.get_default_verify_paths()
    certificates = {pycurl.CAINFO: places.cafile, pycurl.CAPATH: places.capath}
    return {
        # `len` takes the body's bytes and says how many it took: discarded in C.
        pycurl.WRITEFUNCTION: len,
        pycurl.USERAGENT: f"hitledger-test/{version('hitledger')}",
        pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
        # An empty proxy also overrides those of the environment.
        pycurl.PROXY: "",
        pycurl.FOLLOWLOCATION: 0,
        pycurl.CONNECTTIMEOUT: CONNECT_SECONDS,
        pycurl.TIMEOUT: REQUEST_SECONDS,
        pycurl.NOSIGNAL: 1,
        **{option: path for option, path in certificates.items() if path},
    }


def _easy_handle(begun: set[pycurl.Curl]) -> pycurl.Curl:
    handle = pycurl.Curl()
    for option, value in _options().items():
        handle.setopt(option, value)
    handle.setopt(pycurl.PREREQFUNCTION, _once(handle, begun))
    return handle


def _once(handle: pycurl.Curl, begun: set[pycurl.Curl]) -> Callable[..., int]:
    """Return what libcurl asks before each sending: yes the first time, no to a repetition."""

    def may_send(*_addresses: object) -> int:
        if handle in begun:
            return pycurl.PREREQFUNC_ABORT
        begun.add(handle)
        return pycurl.PREREQFUNC_OK

    return may_send
