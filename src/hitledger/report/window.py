"""The time that a report covers: from what a reader writes to the ledger's own periods.

    at=2026-11-23&period=day&tz=America/New_York
      -> 2026-11-23T05:00Z .. 2026-11-24T05:00Z -> 24 hours, which stand in the ledger

The ledger counts by the hours, days and months of UTC. A window is cut into the largest of
them that are still kept; that works for every zone whose offset is whole hours. The others
(India, parts of Australia, ...) are refused rather than answered for a time half an hour off.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from hitledger.errors import NotKeptError, QueryError
from hitledger.periods import KINDS, Period, Retention

_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}(?P<day>-[0-9]{2}(?P<hour>[Tt][0-9]{2}(?P<rest>:[0-9]{2}"
    r"(:[0-9]{2}(\.[0-9]{1,6})?)?([Zz]|[+-][0-9]{2}:[0-9]{2})?)?)?)?"
)
EARLIEST_YEAR, LATEST_YEAR = 1970, 9000
EXAMPLES = "such as 2026-11-23T22, 2026-11-23 or 2026-11"
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Moment:
    """A moment as a reader wrote it, and what it names: a month, a day, an hour or just itself."""

    kind: str
    time: datetime


@dataclass(frozen=True)
class Window:
    """A time from `start` up to, not including, `end`, and the ledger's periods that make it up.

    `start`, `end` and `periods` are None and empty for all time.
    """

    start: datetime | None = None
    end: datetime | None = None
    periods: tuple[Period, ...] = ()


ALL_TIME = Window()


def read_zone(name: str) -> tzinfo:
    """Return the IANA time zone of that name.

    Raises:
        QueryError: there is none.
    """
    # Names are looked up as files: nothing but a zone's own alphabet goes there.
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_+-]{0,31}(/[A-Za-z0-9_+-]{1,31}){0,2}", name):
        try:
            return _zone(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass
    raise QueryError("tz", "takes the name of an IANA time zone, such as Europe/Berlin or UTC.")


@lru_cache(maxsize=64)
def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)


def read_moment(parameter: str, text: str, zone: tzinfo) -> Moment:
    """Read a month, day, hour or moment of RFC 3339; without an offset it is local to the zone.

    Raises:
        QueryError: it is none of them, or there is no such day or hour.
    """
    found = _MOMENT.fullmatch(text)
    if found:
        kind = "moment" if found["rest"] else "hour" if found["hour"] else "day" if found["day"] else "month"
        try:
            time = datetime.fromisoformat(text.upper() + {"month": "-01T00", "day": "T00"}.get(kind, ""))
            aware = time if time.tzinfo else time.replace(tzinfo=zone)
            if EARLIEST_YEAR <= time.year <= LATEST_YEAR:
                return Moment(kind, aware)
        except ValueError:
            pass
    raise QueryError(parameter, f"takes a moment, an hour, a day or a month, {EXAMPLES}.")


def window_at(kind: str, moment: Moment, zone: tzinfo, parameter: str = "at") -> tuple[datetime, datetime]:
    """Return when the hour, day or month of a zone begins and ends that holds a moment.

    Raises:
        QueryError: the moment names more than one of them.
    """
    order = ["moment", *KINDS]
    if order.index(moment.kind) > order.index(kind):
        raise QueryError(parameter, f"names a whole {moment.kind}; period={kind} needs a {kind}.")
    if kind == "hour":
        # In steps of real time: a local clock may show an hour twice.
        shown = moment.time.astimezone(zone)
        past = timedelta(minutes=shown.minute, seconds=shown.second, microseconds=shown.microsecond)
        start = moment.time.astimezone(UTC) - past
        return start, start + HOUR
    local = moment.time.astimezone(zone).replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0, fold=0)
    after = local + timedelta(days=1)
    if kind == "month":
        local = local.replace(day=1)
        after = (local + timedelta(days=32)).replace(day=1)
    return local.replace(tzinfo=zone).astimezone(UTC), after.replace(tzinfo=zone).astimezone(UTC)


def window_between(start: datetime, end: datetime, retention: Retention, now: datetime) -> Window:
    """Return the window from `start` up to `end` as periods that the ledger has.

    The largest periods come first. What has not happened yet has no hits, so the period that
    is running counts as whole where the window goes on to the end of this hour.

    Raises:
        QueryError: it does not begin and end with whole hours of UTC.
        NotKeptError: counts of a part of it are not kept.
    """
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    reaches_now = end >= Period.containing("hour", now).end
    periods, at = [], start
    while at < end and not (reaches_now and at > now):
        period = _largest(at, end, retention, now, reaches_now=reaches_now)
        periods.append(period)
        at = period.end
    return Window(start, end, tuple(periods))


def _largest(at: datetime, end: datetime, retention: Retention, now: datetime, *, reaches_now: bool) -> Period:
    for kind in reversed(KINDS):
        period = Period.containing(kind, at)
        fits = period.end <= end or (reaches_now and period.end > now)
        if period.start == at and fits and retention.keeps(period, now):
            return period
    first = {kind: retention.first_kept(kind, now) for kind in KINDS}
    raise NotKeptError(
        f"What was counted at {at:%Y-%m-%dT%H}:00Z is not kept in periods that fit the time asked for.",
        {kind: period.name for kind, period in first.items() if period},
    )


def check_whole_hours(parameter: str, moment: datetime, zone_name: str) -> None:
    """Check that a window may begin or end at a moment.

    Raises:
        QueryError: the ledger, which counts by hours of UTC, has no boundary there.
    """
    time = moment.astimezone(UTC)
    if time.minute or time.second or time.microsecond:
        reason = "is not on a whole hour of UTC, by which the ledger counts"
        if parameter == "tz":
            reason = f"{zone_name} is not whole hours away from UTC, by whose hours the ledger counts"
        raise QueryError(parameter, f"{reason}.")
