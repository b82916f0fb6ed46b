r"""What the service's processes say about themselves: one line an event, on standard error.

Every module logs by the standard library, so that counting inside somebody else's application
needs nothing more; structlog gives the lines their form here, as JSON or for a console. What
comes from outside cannot begin a line of its own in either: JSON escapes it, and on a console
control characters are shown as `\x1b` and the lines of a traceback are indented.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import structlog
from structlog.stdlib import ExtraAdder, ProcessorFormatter, add_log_level, add_logger_name

from hitledger.settings import Settings

Event = MutableMapping[str, Any]
Fields = Callable[[], Mapping[str, Any]]
Processor = Callable[[Any, str, Event], Event | str | bytes]

_UNSEEMLY = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What could move a terminal's cursor, break a line or turn the direction of writing."""
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@]*@|(?<=Bearer )\S+")
HIDDEN = "***"


def is_for_console(settings: Settings) -> bool:
    """Tell whether lines are for people: as it is set, else where standard error is a terminal."""
    if settings.log_format == "auto":
        return sys.stderr is not None and sys.stderr.isatty()
    return settings.log_format == "console"


def configure_logging(settings: Settings, *fields: Fields) -> None:
    """Send log lines to standard error; again is fine, and so is after somebody else.

    `fields` are asked for what else belongs on each line, such as the id of the request that
    is being answered. Other people's modules are heard from `warning` on, whatever the level.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(make_formatter(fields, console=is_for_console(settings)))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("hitledger").setLevel(settings.log_level.upper())


def make_formatter(fields: tuple[Fields, ...] = (), *, console: bool) -> logging.Formatter:
    """Return what turns a record into a line."""

    def add_fields(_logger: Any, _method: str, event: Event) -> Event:
        for each in fields:
            event.update(each())
        return event

    first: list[Processor] = [add_log_level, add_logger_name, ExtraAdder(), add_fields]
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    as_json: list[Processor] = [_first_things_first, structlog.processors.JSONRenderer()]
    return ProcessorFormatter(
        foreign_pre_chain=first,
        processors=[
            ProcessorFormatter.remove_processors_meta,
            stamp,
            structlog.processors.format_exc_info,
            _without_credentials,
            *([_for_people, _console_renderer()] if console else as_json),
        ],
    )


def _console_renderer() -> structlog.dev.ConsoleRenderer:
    colors = sys.stderr is not None and sys.stderr.isatty()
    return structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0, pad_level=False)


def _without_credentials(_logger: Any, _method: str, event: Event) -> Event:
    """Hide user names and passwords in addresses, and bearer tokens: a library's error may quote them."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = _CREDENTIALS.sub(lambda found: HIDDEN + "@" * found[0].endswith("@"), value)
    return event


def _for_people(_logger: Any, _method: str, event: Event) -> Event:
    for key, value in event.items():
        if key == "exception":
            event[key] = "\n".join("    " + escaped(line) for line in str(value).split("\n"))
        elif not isinstance(value, bool | int | float):
            event[key] = escaped(str(value))
    return event


def _first_things_first(_logger: Any, _method: str, event: Event) -> Event:
    order = ("timestamp", "level", "logger", "event")
    return {key: event[key] for key in order if key in event} | dict(event)


def escaped(text: str) -> str:
    """Return a text in which control characters are shown instead of obeyed."""
    return _UNSEEMLY.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
