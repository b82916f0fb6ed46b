"""The geometry of what pages draw as SVG: bars over time with their axes, and small lines beside numbers.

Places are in per cent of the drawing, so that it fills whatever room there is and its texts are
never stretched. No style of its own: classes, and attributes that a strict policy allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from math import ceil

from hitledger.periods import Period, period_named
from hitledger.report.single import Point

GAP_SHARE = 0.18
"""Of a bar's room: what stays free beside it."""
LEAST_PERCENT = 1.0
"""One request among millions is still seen."""
LEAST_POINTS = {"hour": 24, "day": 14, "month": 12}
"""Empty periods before the first request are left out, but for so many in all."""
STEPS = {"hour": (1, 3, 6, 12, 24, 48), "day": (1, 7, 14, 28, 56), "month": (1, 2, 3, 6, 12)}
"""How many periods may lie between two labels."""
MOST_LABELS = 8


@dataclass(frozen=True)
class Bar:
    """One period. `label` is set where the axis names it: 1 always, 2 where there is room."""

    period: Period
    requests: int
    x: str
    y: str
    width: str
    height: str
    middle: str
    label: int


@dataclass(frozen=True)
class Chart:
    """Bars from the oldest period to the newest; `ticks` are the numbers at 0, 50 and 100 per cent of its height."""

    by: str
    bars: list[Bar]
    top: int
    highest: Bar
    total: int

    @property
    def ticks(self) -> list[tuple[str, str]]:
        """Places from above, and what they stand for."""
        half = self.top / 2
        return [("0%", short(self.top)), ("50%", short(half)), ("100%", "0")]


def chart_of(by: str, series: Sequence[Point]) -> Chart | None:
    """Return the bars of a series; None where nothing was requested in it."""
    first = next((index for index, point in enumerate(series) if point.requests), None)
    if first is None:
        return None
    series = series[min(first, max(0, len(series) - LEAST_POINTS[by])) :]
    top = nice(max(point.requests for point in series))
    room = 100 / len(series)
    step = next((each for each in STEPS[by] if len(series) / each <= MOST_LABELS), ceil(len(series) / MOST_LABELS))
    bars = []
    for index, point in enumerate(series):
        height = max(LEAST_PERCENT, 100 * point.requests / top) if point.requests else 0
        x, y, middle = index * room, 100 - height, (index + 0.5) * room
        back = len(series) - 1 - index
        bars.append(
            Bar(
                period=period_named(by, point.period),
                requests=point.requests,
                x=f"{x:.3f}%",
                y=f"{y:.3f}%",
                width=f"{room * (1 - GAP_SHARE):.3f}%",
                height=f"{height:.3f}%",
                middle=f"{middle:.3f}%",
                label=0 if back % step or not 3 < middle < 97 else 1 + (back // step) % 2,
            )
        )
    highest = max(bars, key=lambda bar: bar.requests)
    return Chart(by, bars, top, highest, sum(point.requests for point in series))


def nice(most: int) -> int:
    """Return the round, even number that an axis ends with."""
    power = 1
    while True:
        for each in (2, 4, 6, 8, 10, 12, 16):
            if most <= each * power:
                return each * power
        power *= 10


def short(number: float) -> str:
    """Return a number of an axis: 950, 1.5k, 20k, 3M."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f}".removesuffix(".0") + letter
    return f"{number:g}"


def line_of(values: Sequence[int], height: int = 20) -> str:
    """Return the path of small bars, one unit wide each, that stand for some values."""
    most = max(values, default=0)
    if not most:
        return ""
    pieces = []
    for index, value in enumerate(values):
        if value:
            tall = max(1.0, height * value / most)
            pieces.append(f"M{index} {height}v-{tall:.1f}h.75v{tall:.1f}z")
    return "".join(pieces)


def area_of(samples: Sequence[tuple[float, float]], now: float, seconds: int, height: int = 40) -> str:
    """Return the path of a rate over the last seconds: from each (time, rate) back to the one before it."""
    most = max((rate for _, rate in samples[1:]), default=0.0)
    if not most:
        return ""
    points: list[tuple[float, float]] = []
    for (begun, _), (ended, rate) in pairwise(samples):
        y = height - (height - 2) * rate / most
        points += [(max(0.0, seconds - (now - moment)), y) for moment in (begun, ended)]
    ground = [(points[-1][0], height), (points[0][0], height)]
    return "M" + "L".join(f"{x:.2f} {y:.1f}" for x, y in [*points, *ground]) + "z"


def is_within(period: Period, start: datetime | None, end: datetime | None) -> bool:
    """Tell whether a period belongs to a time; all do where there is none."""
    return start is None or end is None or (start <= period.start and period.end <= end)
