"""One URL's history as bars: the geometry of an SVG that the server draws, with no style of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hitledger.report.single import Point

WIDTH, HEIGHT = 720, 160
GAP_SHARE = 0.2
"""Of a bar's room: what stays free beside it."""
LEAST_HEIGHT = 1.5
"""One request among millions is still seen."""


@dataclass(frozen=True)
class Bar:
    """One period, in the units of the chart's view box."""

    x: str
    y: str
    width: str
    height: str
    period: str
    requests: int


@dataclass(frozen=True)
class Chart:
    """Bars from the oldest period to the newest; `most` is what the highest stands for."""

    bars: list[Bar]
    most: int
    first: str
    last: str
    width: int = WIDTH
    height: int = HEIGHT


def chart_of(series: Sequence[Point]) -> Chart | None:
    """Return the bars of a series; None where nothing was requested in it."""
    most = max((point.requests for point in series), default=0)
    if not most:
        return None
    room = WIDTH / len(series)
    bars = []
    for index, point in enumerate(series):
        if point.requests:
            height = max(LEAST_HEIGHT, HEIGHT * point.requests / most)
            place = (index * room, HEIGHT - height, room * (1 - GAP_SHARE), height)
            x, y, wide, high = (f"{each:.2f}" for each in place)
            bars.append(Bar(x, y, wide, high, point.period, point.requests))
    return Chart(bars, most, series[0].period, series[-1].period)
