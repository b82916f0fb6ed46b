"""Traces by OpenTelemetry: off unless `HITLEDGER_TRACES` is on, and then nothing of it is even imported.

One trace follows a test run from the request that asks for it to the requests that it sends:

    POST /test/<n>/ -> commands to the ledger
                    -> the task, published -> carried out by a worker -> commands to the ledger
                                                                      -> GET /api/... -> answered by a web process

joined by W3C trace context in HTTP headers and in the task's message. Where spans go, and
which are kept, is said by OpenTelemetry's own variables (`OTEL_*`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hitledger.errors import SettingsError
from hitledger.settings import Settings

if TYPE_CHECKING:
    from hitledger.tracing.spans import Tracing

TRACE_KEY = "hitledger.trace_id"
"""Where the id of the trace that a request belongs to stands in its environment."""


def start_tracing(settings: Settings) -> Tracing | None:
    """Return what makes this process's spans; None while traces are off.

    Raises:
        SettingsError: they are on, and OpenTelemetry is not installed or its variables are wrong.
    """
    if not settings.traces:
        return None
    try:
        from hitledger.tracing.spans import Tracing  # noqa: PLC0415 - nothing of it is loaded while traces are off
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"HITLEDGER_TRACES needs the package {error.name}.", "Install hitledger[tracing], or leave traces off."
        ) from error
    return Tracing()
