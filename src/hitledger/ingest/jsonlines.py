"""Logs of one JSON object a line: Caddy, Traefik, Envoy, and nginx or Apache where they are told to.

What says when, what and how is found by name, in the first of these that an object has; a name
with a dot is that of an object within.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hitledger.ingest.lines import NOT_IN_FORMAT, Request
from hitledger.ingest.targets import NO_ANSWER, NotCountedError, target_of
from hitledger.ingest.times import cut

TIMES = (
    "ts",
    "start_time",
    "StartUTC",
    "time_iso8601",
    "time_local",
    "@timestamp",
    "timestamp",
    "msec",
    "time",
    "date",
)
TARGETS = ("request.uri", "RequestPath", "request_uri", "requestUri", "path", "uri", "url", "target")
REQUESTS = ("request", "request_line", "requestLine")
METHODS = ("request.method", "RequestMethod", "method", "request_method", "requestMethod")
STATUSES = ("status", "DownstreamStatus", "response_code", "status_code", "statusCode", "http_status")
_NO_SECONDS_FROM = 10**11
"""A time as large as this is in thousandths of a second, or of those, or of those: Caddy's `unix_nano`."""


class JsonFormat:
    """One JSON object a line."""

    name = "json"
    is_path = False

    def first_time(self, lines: bytes) -> None:
        """Return nothing: there is no quicker way than line by line."""
        del lines

    def within_hour(self, lines: bytes, time: bytes, zone: bytes) -> list[bytes]:
        """Return every line whole."""
        del time, zone
        return _split(lines)

    def counted(self, lines: bytes) -> Counter[tuple[bytes, ...]]:
        """Return what the lines say, as `Format` has it."""
        return Counter(map(self._words, _split(lines)))

    def _words(self, line: bytes) -> tuple[bytes, ...]:
        try:
            found = self.read(line)
        except NotCountedError:
            return b"", b"", b"", b"", line
        return found.time, found.zone, found.target, found.status, b""

    def read(self, line: bytes) -> Request:
        """Read one line. Raises NotCountedError."""
        # Bytes that are no UTF-8 pass through as they are: a path may hold any.
        try:
            content = json.loads(line.decode("utf-8", "surrogateescape"))
            if not isinstance(content, dict):
                raise NotCountedError(NOT_IN_FORMAT)
            time = cut(_time_text(_first(content, TIMES)))
            status = _bytes(_first(content, STATUSES))
            if time is None or not status.removeprefix(b"-").isdigit():
                raise NotCountedError(NOT_IN_FORMAT)
            if len(status) < 3:
                raise NotCountedError(NO_ANSWER, bad=False)
            return Request(*time, _target(content), status)
        except (ValueError, OverflowError, RecursionError):  # UnicodeError is a ValueError
            raise NotCountedError(NOT_IN_FORMAT) from None


def _split(lines: bytes) -> list[bytes]:
    return [line + b"\n" for line in lines.split(b"\n")[:-1]]  # `splitlines` would split at a carriage return, too


def _target(content: dict[str, Any]) -> bytes:
    found = _first(content, TARGETS)
    if isinstance(found, str):
        method = _bytes(_first(content, METHODS)) or b"GET"
        return target_of(b"%b %b HTTP/1.1" % (method, _bytes(found)))
    request = _first(content, REQUESTS)
    if not isinstance(request, str):
        raise NotCountedError(NOT_IN_FORMAT)
    return target_of(_bytes(request))


def _first(content: dict[str, Any], names: Sequence[str]) -> Any:
    for name in names:
        outer, _, inner = name.partition(".")
        value = content.get(outer)
        if inner:
            value = value.get(inner) if isinstance(value, dict) else None
        if value is not None:
            return value
    return None


def _time_text(value: Any) -> bytes:
    if isinstance(value, int | float) and not isinstance(value, bool):
        for _ in range(3):
            value = value / 1000 if value >= _NO_SECONDS_FROM else value
        return b"%d" % int(value)
    return _bytes(value)


def _bytes(value: Any) -> bytes:
    return b"" if value is None else str(value).encode("utf-8", "surrogateescape")
