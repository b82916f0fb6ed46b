"""Periods of counting: the hours, days and months of UTC, and how long each is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from hitledger.settings import Settings

KINDS = ("hour", "day", "month")
EXPIRING = timedelta(minutes=2)
"""What expires sooner than this is no longer reported: it could go while it is read."""
_FORMATS = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "month": "%Y-%m"}


@dataclass(frozen=True)
class Period:
    """One hour, day or month of UTC: its kind, and its first moment."""

    kind: str
    start: datetime

    @classmethod
    def containing(cls, kind: str, moment: datetime) -> Period:
        """Return the period of a kind that a moment falls into."""
        start = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        if kind != "hour":
            start = start.replace(hour=0)
        if kind == "month":
            start = start.replace(day=1)
        return cls(kind, start)

    def has_hour(self, hour: int) -> bool:
        """Tell whether an hour, in hours since 1970, is in the period."""
        return self == Period.containing(self.kind, datetime.fromtimestamp(hour * 3600, UTC))

    @property
    def name(self) -> str:
        """The period as people write it: 2026-11-23T22, 2026-11-23 or 2026-11."""
        return self.start.strftime(_FORMATS[self.kind])

    @property
    def key(self) -> str:
        """The period as it stands in the ledger's keys."""
        return f"{self.kind}:{self.name}"

    @property
    def end(self) -> datetime:
        """The first moment behind the period."""
        if self.kind == "hour":
            return self.start + timedelta(hours=1)
        if self.kind == "day":
            return self.start + timedelta(days=1)
        return (self.start + timedelta(days=32)).replace(day=1)


def period_named(kind: str, name: str) -> Period:
    """Return the period of a kind that has this name. Raises ValueError."""
    return Period(kind, datetime.strptime(name, _FORMATS[kind]).replace(tzinfo=UTC))


@dataclass(frozen=True)
class Retention:
    """For how many hours, days and months back counts are kept; 0 keeps none."""

    hours: int
    days: int
    months: int

    @classmethod
    def of(cls, settings: Settings) -> Retention:
        """Return the retention that the settings ask for."""
        return cls(settings.retention_hours, settings.retention_days, settings.retention_months)

    def length(self, kind: str) -> timedelta:
        """Return how long a period of a kind is kept after its end."""
        if kind == "hour":
            return timedelta(hours=self.hours)
        return timedelta(days=self.days if kind == "day" else 31 * self.months)

    def keeps(self, period: Period, now: datetime) -> bool:
        """Tell whether the ledger still has a period, and will for the next two minutes."""
        length = self.length(period.kind)
        return bool(length) and period.end + length > now + EXPIRING

    def first_kept(self, kind: str, now: datetime) -> Period | None:
        """Return the earliest period of a kind that the ledger still has; None where it keeps none."""
        length = self.length(kind)
        return Period.containing(kind, now + EXPIRING - length) if length else None

    def all_kept(self, now: datetime) -> Iterator[Period]:
        """Yield every period that the ledger still has, of each kind the earliest first."""
        for kind in KINDS:
            period = self.first_kept(kind, now)
            while period and period.start <= now:
                yield period
                period = Period.containing(kind, period.end)

    def periods_kept(self, hour: int) -> list[tuple[Period, int]]:
        """Return the periods that an hour's hits are booked in, each with its expiry.

        `hour` is in hours since 1970, expiries in seconds since 1970. A period whose time is
        over is still named: the server drops a key at once that expires in the past.
        """
        return _periods_kept(self, hour)


@lru_cache(maxsize=4096)
def _periods_kept(retention: Retention, hour: int) -> list[tuple[Period, int]]:
    moment = datetime.fromtimestamp(hour * 3600, UTC)
    kept = []
    for kind in KINDS:
        length = retention.length(kind)
        if length:
            period = Period.containing(kind, moment)
            kept.append((period, int((period.end + length).timestamp())))
    return kept
