"""Times in logs: recognised by their shape, cut to what decides the hour, and read once each.

A *time* here is a text without its seconds, and a *zone* what stands behind it, if anything:
equal to the minute, so that the lines of a busy minute share one pair. A minute never lies in
two hours, whatever its zone.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

LOCAL = rb"(?P<time>\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d):\d\d(?:\.\d++)?+(?P<zone>(?: [+-]\d{4})?+)"
"""23/Nov/2026:22:15:03 +0000; HAProxy writes thousandths, and no zone."""
ISO = rb"(?P<time>\d{4}-\d\d-\d\d[T ]\d\d:\d\d):\d\d(?:[.,]\d++)?+(?P<zone>(?: ?(?:Z|[+-]\d\d:?\d\d))?+)"
"""2026-11-23T22:15:03.123Z"""
EPOCH = rb"(?P<time>\d{8,9})\d(?:\.\d++)?+(?P<zone>)"
"""1795472103.123, cut to tens of seconds."""

_SHAPES = [re.compile(shape) for shape in (LOCAL, ISO, EPOCH)]
_MONTHS = {name: at for at, name in enumerate(b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)}
_LEAST_MINUTE, _MOST_MINUTE = 0, 2**32 // 60


def cut(text: bytes) -> tuple[bytes, bytes] | None:
    """Return time and zone of a text that is all of a time; None where it is none."""
    for shape in _SHAPES:
        match = shape.fullmatch(text)
        if match:
            return match["time"], match["zone"]
    return None


class Minutes:
    """Reads times; `default` is the zone of those that name none."""

    def __init__(self, default: tzinfo = UTC) -> None:
        self._default = default
        self._known: dict[tuple[bytes, bytes], int] = {}

    def minute_of(self, time: bytes, zone: bytes) -> int:
        """Return the minute, counted from 1970. Raises ValueError where there is no such time."""
        found = self._known.get((time, zone))
        if found is None:
            if len(self._known) > 100_000:
                self._known.clear()
            found = self._known[time, zone] = self._read(time, zone.strip())
        return found

    def _read(self, time: bytes, zone: bytes) -> int:
        minute = int(time) // 6 if time.isdigit() else int(self._aware(time, zone).timestamp()) // 60
        if not _LEAST_MINUTE <= minute <= _MOST_MINUTE:
            raise ValueError("a time outside 1970 to 2106")
        return minute

    def _aware(self, time: bytes, zone: bytes) -> datetime:
        moment = self._moment(time)
        if not zone:
            return moment.replace(tzinfo=self._default)
        try:
            return moment.replace(tzinfo=UTC) - _offset(zone)
        except OverflowError as error:
            raise ValueError("a time outside the years 1 to 9999") from error

    def _moment(self, time: bytes) -> datetime:
        if b"/" in time:
            month = _MONTHS.get(time[3:6], 0)
            return datetime(int(time[7:11]), month, int(time[:2]), int(time[12:14]), int(time[15:17]))  # noqa: DTZ001 - its zone is put on by the caller
        return datetime.fromisoformat(time.decode())


def _offset(zone: bytes) -> timedelta:
    if zone == b"Z":
        return timedelta()
    digits = zone.replace(b":", b"")
    minutes = int(digits[1:3]) * 60 + int(digits[3:5])
    return timedelta(minutes=-minutes if digits[:1] == b"-" else minutes)
