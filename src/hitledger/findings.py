"""What a check found: the words that `hitledger doctor`, the start and the logs share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

OK, UNKNOWN, WARN, FAIL = "ok", "unknown", "warn", "fail"
ORDER = (OK, UNKNOWN, WARN, FAIL)
"""From best to worst."""


@dataclass(frozen=True)
class Finding:
    """One check's result: what was found, and what to do about it where it is not well.

    `subject` is the server or folder that it is about; `what` does not repeat it, and may be
    shown where addresses may not.
    """

    check: str
    status: str
    what: str
    remedy: str = ""
    subject: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}".strip()


def worst(findings: Iterable[Finding]) -> str:
    """Return the worst status; OK where there is no finding at all."""
    return max((each.status for each in findings), key=ORDER.index, default=OK)
