"""Rising or falling: this hour so far, beside as much of the hour before."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

CERTAIN = 2.0
"""Standard deviations of chance (Poisson) that a change must exceed to be called one."""
MOST_PERCENT = 999


@dataclass(frozen=True)
class Trend:
    """`word` is rising, falling, steady, new or quiet; `percent` the change, None where there was nothing before."""

    word: str
    percent: int | None = None

    @property
    def text(self) -> str:
        """The change as people read it."""
        if self.percent is None or self.word not in ("rising", "falling"):
            return ""
        return f"{self.percent:+d} %".replace("-", "\N{MINUS SIGN}")


QUIET = Trend("quiet")


def trend_of(recent: int, before: int, elapsed: float) -> Trend:
    """Compare hits of this hour, of which a share has `elapsed`, with those of the hour before."""
    if not before:
        return Trend("new") if recent else QUIET
    expected = before * max(elapsed, 0.001)
    chance = CERTAIN * sqrt(max(expected, 1.0))
    percent = min(MOST_PERCENT, round(100 * (recent / expected - 1)))
    if recent > expected + chance:
        return Trend("rising", percent)
    if recent < expected - chance:
        return Trend("falling", percent)
    return Trend("steady", percent)
