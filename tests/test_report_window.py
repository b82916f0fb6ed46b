"""The time that a report covers: moments, zones, and the ledger's periods that make it up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitledger.errors import NotKeptError, QueryError
from hitledger.periods import Retention
from hitledger.report import Query
from hitledger.report.window import read_zone, window_between

NOW = datetime(2026, 11, 23, 22, 15, tzinfo=UTC)
KEPT = Retention(48, 92, 60)


def covered(**parameters: str) -> list[str]:
    """Return the ledger's periods that a query's parameters ask for at that moment."""
    texts = {name.rstrip("_"): text for name, text in parameters.items()}
    return [period.name for period in Query.read(texts).window(KEPT, NOW).periods]


def hours(first: datetime, count: int) -> list[str]:
    """Return the names of hours that follow each other."""
    return [(first + timedelta(hours=hour)).strftime("%Y-%m-%dT%H") for hour in range(count)]


@pytest.mark.parametrize(
    ("parameters", "periods"),
    [
        ({}, []),
        ({"period": "hour"}, ["2026-11-23T22"]),
        ({"period": "day"}, ["2026-11-23"]),
        ({"period": "month"}, ["2026-11"]),
        ({"period": "hour", "at": "2026-11-22T23"}, ["2026-11-22T23"]),
        ({"period": "hour", "at": "2026-11-22T23:59:59.5Z"}, ["2026-11-22T23"]),
        ({"period": "hour", "at": "2026-11-23T00:30+02:00"}, ["2026-11-22T22"]),
        ({"period": "day", "at": "2026-09-01"}, ["2026-09-01"]),
        ({"period": "day", "at": "2026-11-23T05"}, ["2026-11-23"]),
        ({"period": "month", "at": "2024-02"}, ["2024-02"]),
        ({"from_": "2026-11-20", "to": "2026-11-22"}, ["2026-11-20", "2026-11-21"]),
        ({"from_": "2026-09-30", "to": "2026-12-01"}, ["2026-09-30", "2026-10", "2026-11"]),
        ({"from_": "2026-11-23T20"}, ["2026-11-23T20", "2026-11-23T21", "2026-11-23T22"]),
        ({"from_": "2026-11-22T23", "to": "2026-11-24"}, ["2026-11-22T23", "2026-11-23"]),
        ({"from_": "2026-11-23", "to": "2026-11-23T22"}, hours(NOW - timedelta(hours=22), 22)),
        ({"period": "hour", "at": "2026-11-23T10", "tz": "America/New_York"}, ["2026-11-23T15"]),
        ({"period": "day", "at": "2026-11-22", "tz": "America/New_York"}, hours(NOW - timedelta(hours=41), 24)),
        ({"period": "day", "tz": "America/New_York"}, hours(NOW - timedelta(hours=17), 18)),
    ],
)  # fmt: skip
def test_the_largest_periods_that_fit(parameters: dict[str, str], periods: list[str]) -> None:
    """A time is cut into whole months, days and hours of UTC, the largest first; what runs counts as whole."""
    assert covered(**parameters) == periods


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"period": "hour", "at": "2026-11-23"}, "at"), ({"period": "day", "at": "2026-11"}, "at"),
        ({"period": "day", "at": "2026-02-30"}, "at"), ({"period": "day", "at": "2026-11-23T24"}, "at"),
        ({"period": "day", "at": "2026-12-01"}, "at"), ({"period": "day", "at": "2026-11-23 22"}, "at"),
        ({"period": "day", "at": "\uff12\uff10\uff12\uff16-11-23"}, "at"), ({"period": "day", "at": ""}, "at"),
        ({"period": "day", "at": "0001-01-01"}, "at"), ({"period": "day", "at": "9999-12-31"}, "at"),
        ({"at": "2026-11-23"}, "at"), ({"tz": "UTC"}, "tz"), ({"period": "week"}, "period"),
        ({"period": "day", "tz": "Mars/Olympus"}, "tz"), ({"period": "day", "tz": "../../etc/passwd"}, "tz"),
        ({"period": "day", "tz": "Asia/Kolkata"}, "tz"), ({"period": "hour", "tz": "Asia/Kolkata"}, "tz"),
        ({"from_": "2026-11-22", "tz": "Asia/Kolkata"}, "tz"),
        ({"to": "2026-11-22"}, "to"), ({"from_": "2026-11-22", "to": "2026-11-22"}, "to"),
        ({"from_": "2026-11-22", "to": "2026-11-21"}, "to"), ({"from_": "2026-11-24"}, "from"),
        ({"from_": "2026-11-22T10:30Z"}, "from"), ({"from_": "2026-11-22", "to": "2026-11-22T10:30Z"}, "to"),
        ({"period": "day", "from_": "2026-11-22"}, "period"), ({"at": "2026-11-22", "from_": "2026-11-22"}, "at"),
    ],
)  # fmt: skip
def test_a_time_that_cannot_be_meant_is_named(parameters: dict[str, str], named: str) -> None:
    """What is no time, lies in the future, or does not fit hours of UTC is refused by its parameter's name."""
    with pytest.raises(QueryError) as caught:
        covered(**parameters)
    assert caught.value.parameter == named


@pytest.mark.parametrize(
    ("parameters", "kept_from"),
    [
        ({"period": "hour", "at": "2026-11-21T21"}, ("hour", "2026-11-21T22")),
        ({"period": "day", "at": "2026-08-22"}, ("day", "2026-08-23")),
        ({"period": "month", "at": "2021-09"}, ("month", "2021-10")),
        ({"from_": "2026-08-22", "to": "2026-08-25"}, ("day", "2026-08-23")),
        ({"period": "day", "at": "2026-11-20", "tz": "America/New_York"}, ("hour", "2026-11-21T22")),
    ],
)
def test_what_is_not_kept_any_more_says_from_when_there_is(
    parameters: dict[str, str], kept_from: tuple[str, str]
) -> None:
    """Beyond its retention a time is an error of its own, which names the first period that there is."""
    with pytest.raises(NotKeptError) as caught:
        covered(**parameters)
    assert caught.value.data_from[kept_from[0]] == kept_from[1]


def test_an_hour_that_a_clock_shows_twice() -> None:
    """A local day is as long as it is: 25 hours when summer time ends."""
    kept, now = Retention(96, 92, 60), datetime(2026, 10, 26, 12, tzinfo=UTC)
    query = Query.read({"period": "day", "at": "2026-10-25", "tz": "Europe/Berlin"})
    assert len(query.window(kept, now).periods) == 25


@given(st.integers(0, 60 * 24), st.integers(1, 60 * 24))
def test_periods_follow_each_other_without_gap(back: int, length: int) -> None:
    """Whatever whole hours are asked for, the periods begin, follow and end exactly there."""
    end = NOW.replace(minute=0) - timedelta(hours=back)
    start = end - timedelta(hours=length)
    kept = Retention(24 * 366, 3660, 1200)
    periods = window_between(start, end, kept, NOW).periods
    assert periods[0].start == start
    assert periods[-1].end == end
    assert all(one.end == other.start for one, other in pairwise(periods))
    assert len(periods) <= 2 * 23 + 2 * 30 + 4


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5"])
def test_zones_are_known_by_name(name: str) -> None:
    """IANA names are taken."""
    assert NOW.astimezone(read_zone(name)) == NOW
