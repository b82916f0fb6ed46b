"""What the pages share: reports and figures, each as it is now or as it was last."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from hitledger.errors import LedgerError
from hitledger.report import Reports
from hitledger.web.balance import balance_of
from hitledger.web.overview import Overview
from hitledger.web.rows import RecentHours
from hitledger.web.services import Services
from hitledger.web.shown import Memory, Shown

MOST_WAIT_SECONDS = 1
"""How long a page waits for a report that must be added up first; then it says how far that is."""
Report = TypeVar("Report")


class Desk:
    """Reads for pages. One for all requests of a process."""

    def __init__(self, services: Services) -> None:
        self.services = services
        settings = services.settings
        wait = min(MOST_WAIT_SECONDS, settings.report_wait_seconds)
        self.reports = Reports(services.store, replace(settings, report_wait_seconds=wait), apart=True)
        self.overview = Overview(services)
        self.recent = RecentHours(services.store)
        self._memory = Memory()

    def look(self) -> Look:
        """Post what this host has journalled, and begin one page's reading."""
        try:
            self.services.counter.post_now()
        except LedgerError as error:
            return Look(self, self._memory, error)
        return Look(self, self._memory, None)


class Look:
    """What one page reads. Where posting said that the ledger is away, nothing else tries it."""

    def __init__(self, desk: Desk, memory: Memory, away: LedgerError | None) -> None:
        self._desk = desk
        self._memory = memory
        self._away = away

    def read(self, asked: Hashable, read: Callable[[], Report]) -> Shown[Report]:
        """Read a report, or give the last one. Raises QueryError."""

        def unless_away() -> Report:
            if self._away:
                raise self._away
            return read()

        return self._memory.read(asked, unless_away)

    def hours_of(self, urls: Sequence[str], now: datetime) -> dict[str, list[int]]:
        """Return the hits of URLs by hour, as `RecentHours.of`."""
        return self._desk.recent.of(urls, now, away=self._away is not None)

    def frame(self, by: str | None) -> dict[str, Any]:
        """Return what is on every page: figures, balance and, by a kind of period, all requests over time."""
        overview = self._desk.overview
        figures = self.read("figures", overview.figures)
        return {
            "figures": figures.report,
            "away": bool(figures.error),
            "chart": self.read(("history", by), lambda: overview.history(by)).report if by else None,
            "balance": balance_of(self._desk.services, away=self._away is not None),
        }
