"""Run a worker for test runs."""

from __future__ import annotations

import click

from hitledger.embedded import with_ledger
from hitledger.logs import configure_logging
from hitledger.settings import Settings
from hitledger.testrun.tasks import run_worker


@click.command()
def worker() -> None:
    """Run one more worker for test runs, on this host."""
    configure_logging()
    run_worker(with_ledger(Settings.from_environment()))
