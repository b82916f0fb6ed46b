"""One family of errors: what was attempted, and what to do next.

Every error that hitledger raises on purpose is a `HitledgerError`. Its text is safe to
show to an operator: it never holds a password. What may be shown to a *client* of the
web service is narrower still and is decided in `hitledger.web.problems`.
"""

from __future__ import annotations


class HitledgerError(Exception):
    """The base of all: a message in one line, and a hint that says what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class SettingsError(HitledgerError):
    """A setting has a name or a value that is not allowed."""


class JournalError(HitledgerError):
    """The journal's directory or one of its files cannot be used."""


class DamagedHeaderError(JournalError):
    """A journal file's header cannot be read."""


class CountError(HitledgerError):
    """Hits were to be counted that cannot be: no path, or no number of hits. Nothing was counted."""


class LedgerError(HitledgerError):
    """The ledger answered, and what it answered stops the operation."""


class LedgerUnavailableError(LedgerError):
    """The ledger cannot be reached now, or is not ready to answer; trying later may help."""


class LedgerMismatchError(LedgerError):
    """The ledger's format, shards or server settings do not fit; only an operator can help."""


class QueryError(HitledgerError):
    """A report was asked for with a parameter that is not allowed.

    `parameter` is the parameter's name.
    """

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class NotKeptError(HitledgerError):
    """A report was asked for over a time whose counts are not kept, or not any more.

    `data_from` names, for each kind of period that is kept, the earliest that there is.
    """

    def __init__(self, message: str, data_from: dict[str, str]) -> None:
        kept = ", ".join(f"{kind}s from {name}" for kind, name in data_from.items())
        super().__init__(message, f"There are counts by {kept}." if kept else "No periods are kept.")
        self.data_from = data_from


class ReportBusyError(HitledgerError):
    """A report is still being added up, or too many are; asking again later helps.

    `retry_seconds` is when to ask again.
    """

    def __init__(self, message: str, retry_seconds: int) -> None:
        super().__init__(message, f"Ask again in {retry_seconds} seconds.")
        self.retry_seconds = retry_seconds


class RunError(HitledgerError):
    """A test run cannot be started, found or cancelled."""


class RunUnavailableError(RunError):
    """A test run cannot be started now, and none was; trying later may help."""


class ServiceError(HitledgerError):
    """The service's processes cannot be started on this machine as asked."""


class IngestError(HitledgerError):
    """A log cannot be read, or is none; the ledger has all that came before, once."""
