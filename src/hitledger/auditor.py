"""An audit in a process of its own, for a service that goes on answering meanwhile.

Promised here: one audit at a time on a host, whichever process asks; it steps back behind all other
work of the machine (`apart`), and reads the ledger in pieces that keep nobody waiting (`audit`). It ends
with whoever asked for it, and after `MOST_SECONDS` in any case.

    parent -> stdin:   settings, pickled
    child  -> stdout:  one JSON document: {"report": {...}}, or {"error": [message, hint]}
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

from hitledger.apart import process_apart, task_apart
from hitledger.audit import audit
from hitledger.errors import HitledgerError, LedgerError
from hitledger.host import Host
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings

MOST_SECONDS = 3600
"""A hundred million URLs take some minutes."""
LOCK_NAME = "audit.lock"


@contextmanager
def audit_apart(settings: Settings) -> Iterator[Callable[[float], dict[str, Any] | None] | None]:
    """Begin an audit; give what waits so many seconds for its report, None where it is still being made.

    Gives None where an audit is under way on this host already. What waits raises LedgerError.
    """
    host = Host()
    host.make_directory(settings.data_dir)
    fd = host.open(settings.data_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not host.lock(fd):
            yield None
            return
        with process_apart("hitledger.auditor", settings) as process:
            yield _waiting_for(process)
    finally:
        host.close(fd)


def _waiting_for(process: subprocess.Popen[bytes]) -> Callable[[float], dict[str, Any] | None]:
    give_up = time.monotonic() + MOST_SECONDS

    def wait(seconds: float) -> dict[str, Any] | None:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            if time.monotonic() > give_up:
                raise LedgerError(f"The audit was given up after {MOST_SECONDS:,} seconds.") from None
            return None
        return _report_in(output)

    return wait


def _report_in(output: bytes) -> dict[str, Any]:
    """Return the report that a process has written."""
    try:
        told = json.loads(output)
    except ValueError:
        raise LedgerError("The process that audits has ended.") from None
    if "error" in told:
        raise LedgerError(*told["error"])
    report: dict[str, Any] = told["report"]
    return report


def main() -> None:
    """Audit what standard input asks for."""
    settings: Settings = task_apart()
    try:
        with closing(LedgerStore(settings)) as store:
            told: dict[str, Any] = {"report": audit(settings, store).as_json()}
    except HitledgerError as error:
        told = {"error": [error.message, error.hint]}
    with suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(told))
        sys.stdout.flush()
