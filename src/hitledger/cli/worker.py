"""Run a worker for test runs."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import click

from hitledger.embedded import with_ledger
from hitledger.logs import configure_logging
from hitledger.serve import require_watchfiles
from hitledger.settings import Settings
from hitledger.supervision import die_with
from hitledger.testrun.tasks import run_worker
from hitledger.tracing import start_tracing

PACKAGE = Path(__file__).parent.parent


@click.command()
@click.option("--dev", is_flag=True, help="Start anew when the package's code changes.")
def worker(*, dev: bool) -> None:
    """Run one more worker for test runs, on this host."""
    settings = with_ledger(Settings.from_environment())
    if dev:
        _run_reloading(settings)
    else:
        _work_here(settings)


def _run_reloading(settings: Settings) -> None:
    require_watchfiles()
    from watchfiles import PythonFilter, run_process  # noqa: PLC0415 - developers alone have it

    logging.getLogger("watchfiles").setLevel(logging.ERROR)  # it tells of every signal
    run_process(PACKAGE, target=_work, args=(settings, os.getpid()), watch_filter=PythonFilter(), sigint_timeout=1)


def _work(settings: Settings, parent: int) -> None:
    die_with(parent)
    _work_here(settings)


def _work_here(settings: Settings) -> None:
    tracing = start_tracing(settings)
    configure_logging(settings, *([tracing.fields] if tracing else []))
    run_worker(settings, tracing)
