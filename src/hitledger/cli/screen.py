"""What `hitledger top` looks at, and how keys change it; knows no terminal."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from hitledger.cli.remote import Place, View
from hitledger.errors import HitledgerError
from hitledger.report.query import MOST_LIMIT

PERIODS = {"all": "all time", "hour": "this hour", "day": "today", "month": "this month"}
RATES_KEPT = 60
RISING_LOOKED_AT = 500
"""Rows that are looked at where those that rise fastest stand first."""
_KEY = re.compile(r"\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Za-z])|.", re.DOTALL)
_NAMES = {
    "A": "up", "B": "down", "C": "enter", "D": "left", "H": "home", "F": "end", "1~": "home", "4~": "end",
    "5~": "page up", "6~": "page down",
}  # fmt: skip
_SAME = {"\r": "enter", "\n": "enter", "\x7f": "left", "\b": "left", "?": "h", "\x03": "q", "\x04": "q"}
_SWITCHES = {"o": "by_rate", " ": "paused", "h": "helping", "/": "typing", "q": "ended"}
"""Keys that switch something on or off."""


@dataclass
class Screen:
    """What is looked at, and how; keys change it."""

    period: str = "all"
    search: str = ""
    sections: bool = False
    prefix: str = "/"
    by_rate: bool = False
    typing: bool = False
    helping: bool = False
    paused: bool = False
    ended: bool = False
    first: int = 0
    """The place of the first row that is shown, from 0."""
    chosen: int = 0
    """The place of the row that is chosen."""
    view: View | None = None
    rates: deque[float] = field(default_factory=lambda: deque(maxlen=RATES_KEPT))
    row_rates: dict[str, float] = field(default_factory=dict)
    """Requests a second of each row, since the look before."""
    error: str = ""

    @property
    def parameters(self) -> dict[str, str]:
        """What is asked of the report."""
        given = {"period": self.period if self.period != "all" else "", "search": self.search}
        if self.sections and not self.search:
            given |= {"group": str(max(1, self.prefix.count("/"))), "prefix": self.prefix}
        return {name: text for name, text in given.items() if text}

    @property
    def rows(self) -> list[tuple[str, int]]:
        """The rows in the order that is asked for."""
        rows = self.view.rows if self.view else []
        if self.by_rate:
            return sorted(rows, key=lambda row: self.row_rates.get(row[0], 0.0), reverse=True)
        return rows

    def wanted(self, height: int) -> dict[str, str]:
        """Return what a look asks for, so that so many rows can be shown."""
        limit = max(self.first + height, RISING_LOOKED_AT if self.by_rate else 1)
        return {**self.parameters, "limit": str(min(limit, MOST_LIMIT))}

    def press(self, text: str, height: int = 20) -> None:
        """Do what keys say, one after the other; `height` is how many rows are shown."""
        before = self.parameters
        for key in _KEY.findall(text):
            if self.typing:
                self._type(key)
            elif self.helping:
                self.helping = False
            else:
                self._do(key, max(1, height))
        if self.parameters != before:
            self.view, self.first, self.chosen = None, 0, 0
            self.rates.clear()
            self.row_rates.clear()

    def _do(self, key: str, height: int) -> None:
        name = _NAMES.get(key[2:], "esc") if key.startswith("\x1b") else _SAME.get(key, key)
        actions: dict[str, Callable[[], None]] = {
            "p": self._next_period, "s": self._switch_sections, "enter": self._open, "left": self._close,
            "esc": self._drop_filter,
        }  # fmt: skip
        switch = _SWITCHES.get(name)
        if switch:
            setattr(self, switch, not getattr(self, switch))
        elif name in actions:
            actions[name]()
        else:
            self._move(name, height)

    def _next_period(self) -> None:
        names = list(PERIODS)
        self.period = names[(names.index(self.period) + 1) % len(names)]

    def _switch_sections(self) -> None:
        self.sections, self.prefix, self.search = not self.sections, "/", ""

    def _drop_filter(self) -> None:
        self.search = ""

    def _type(self, key: str) -> None:
        if key in ("\r", "\n"):
            self.typing = False
        elif key == "\x1b":
            self.typing, self.search = False, ""
        elif key in ("\x7f", "\b"):
            self.search = self.search[:-1]
        elif len(key) == 1 and key.isprintable():
            self.search += key

    def _open(self) -> None:
        """Walk down into the section that is chosen."""
        rows = self.rows
        if self.sections and not self.search and self.chosen < len(rows):
            name = rows[self.chosen][0]
            if name.endswith("/") and name != self.prefix:
                self.prefix = name

    def _close(self) -> None:
        """Walk up to the section above."""
        if self.prefix != "/":
            self.prefix = self.prefix.rstrip("/").rpartition("/")[0] + "/"

    def _move(self, name: str, height: int) -> None:
        known = len(self.rows)
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -height, "page down": height,
                 "home": -self.chosen, "end": known - 1 - self.chosen}  # fmt: skip
        total = self.view.row_count if self.view else 0
        last = MOST_LIMIT - 1 if total is None else known - 1
        self._choose(self.chosen + steps.get(name, 0), last)
        self.first = max(self.first, self.chosen - height + 1)

    def _choose(self, place: int, last: int) -> None:
        self.chosen = max(0, min(last, place))
        self.first = min(self.first, self.chosen)

    def look(self, place: Place, height: int) -> None:
        """Read the counts again; where that fails, the last ones stay, with the reason."""
        try:
            self.take(place.look(self.wanted(height)))
        except HitledgerError as error:
            self.error = error.message

    def take(self, view: View) -> None:
        """Take over what was read."""
        old, self.view, self.error = self.view, view, ""
        self._choose(self.chosen, len(view.rows) - 1)
        if old is None or view.as_of <= old.as_of or view.total_requests < old.total_requests:
            return
        seconds = (view.as_of - old.as_of).total_seconds()
        self.rates.append((view.total_requests - old.total_requests) / seconds)
        hits = dict(old.rows)
        self.row_rates = {name: max(0, now - hits[name]) / seconds for name, now in view.rows if name in hits}
