"""Reading for pages: a report as it is now, or as it was last, with the reason.

A ledger that is away never makes a page of zeros: what was read last stays, and is said to be old.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from hitledger.errors import HitledgerError, LedgerError, QueryError, ReportBusyError

log = logging.getLogger("hitledger.web")

MOST_REMEMBERED = 64
AWAY = "The ledger cannot be read now. Requests are still counted, and will be in it when it is back."
Report = TypeVar("Report")


@dataclass(frozen=True)
class Shown(Generic[Report]):
    """A report as it is shown: `error` where it is not what was asked for now; `busy` where it soon will be."""

    report: Report | None
    error: str = ""
    status: int = 200
    busy: bool = False

    @classmethod
    def refusal(cls, error: QueryError) -> Self:
        """Return what is shown where a parameter of the address is wrong."""
        return cls(None, f"The parameter {error.parameter} {error.message}", 422)


class Memory:
    """The last reports that could be read, for when the ledger is away."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reports: OrderedDict[Hashable, object] = OrderedDict()

    def read(self, asked: Hashable, read: Callable[[], Report]) -> Shown[Report]:
        """Read a report, or give the last one that could be read, and say why. Raises QueryError."""
        try:
            report = read()
        except QueryError:
            raise
        except LedgerError as error:
            log.debug("the dashboard shows what it last read: %s", error)
            return Shown(self._last(asked), AWAY)
        except ReportBusyError as error:
            return Shown(self._last(asked), error.message, busy=True)
        except HitledgerError as error:
            return Shown(self._last(asked), f"{error.message} {error.hint}".strip())
        with self._lock:
            self._reports[asked] = report
            self._reports.move_to_end(asked)
            while len(self._reports) > MOST_REMEMBERED:
                self._reports.popitem(last=False)
        return Shown(report)

    def _last(self, asked: Hashable) -> Report | None:
        with self._lock:
            return self._reports.get(asked)  # type: ignore[return-value] # what was kept under it was read by it
