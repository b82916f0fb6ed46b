"""Adding a report up in a process of its own, so that nobody else's requests wait for its work.

The process (`hitledger.apart`) is started for one report, and tells how far it is.

    parent -> stdin:   settings, recipe and path, pickled
    child  -> stdout:  one JSON array a line: ["at", done, of] ..., then ["head", {...}] or
                       ["ledger" | "disk", message, hint], or ["too large", entries, allowed]
"""

from __future__ import annotations

import json
import os
import sys
import threading
from contextlib import closing, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hitledger.apart import process_apart, task_apart
from hitledger.errors import HitledgerError, LedgerError
from hitledger.ledger import LedgerStore
from hitledger.report.build import Builder, Progress, Recipe, TooLargeError
from hitledger.report.snapshot import Head
from hitledger.settings import Settings

TELLING_SECONDS = 0.2


def build_apart(settings: Settings, recipe: Recipe, path: Path, progress: Progress) -> Head:
    """Have a process write the snapshot, and return its head.

    Raises:
        TooLargeError, LedgerError: as `Builder.build`. OSError: the file cannot be written, or the
            process not be started.
    """
    with process_apart("hitledger.report.apart", (settings, recipe, path)) as process:
        assert process.stdout
        for line in process.stdout:
            word, *told = json.loads(line)
            if word != "at":
                return _ended(word, told)
            progress.done, progress.of = told
    raise OSError(None, "the process that adds it up has ended")


def _ended(word: str, told: list[Any]) -> Head:
    if word == "head":
        return Head(**told[0])
    if word == "too large":
        raise TooLargeError(*told)
    if word == "ledger":
        raise LedgerError(*told)
    raise OSError(None, told[0])


def main() -> None:
    """Build what standard input asks for."""
    with suppress(BrokenPipeError):
        _build()


def _build() -> None:
    settings, recipe, path = task_apart()
    with closing(LedgerStore(settings)) as store:
        builder = Builder(store, recipe, path, lambda: datetime.now(UTC))
        threading.Thread(target=_tell_progress, args=(builder.progress,), daemon=True).start()
        try:
            _tell("head", asdict(builder.build(settings.report_max_entries)))
        except TooLargeError as error:
            _tell("too large", *error.figures)
        except HitledgerError as error:
            _tell("ledger", error.message, error.hint)
        except OSError as error:
            _tell("disk", error.strerror)


def _tell_progress(progress: Progress) -> None:
    while not progress.cancelled.wait(TELLING_SECONDS):
        try:
            _tell("at", progress.done, progress.of)
        except OSError:
            progress.cancelled.set()  # nobody listens any more


def _tell(*words: Any) -> None:
    with _telling:
        data = (json.dumps(words) + "\n").encode()
        while data:
            data = data[os.write(sys.stdout.fileno(), data) :]


_telling = threading.Lock()
