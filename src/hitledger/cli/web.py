"""Run the web processes alone."""

from __future__ import annotations

import click

from hitledger.embedded import with_ledger
from hitledger.logs import configure_logging
from hitledger.settings import Settings
from hitledger.webserver import run_web


@click.command(hidden=True)
@click.option("--dev", is_flag=True, help="Start the workers anew when the package's code changes.")
def web(*, dev: bool) -> None:
    """Run the web processes alone, without a worker: what `serve` and containers start."""
    settings = with_ledger(Settings.from_environment())
    configure_logging(settings)
    run_web(settings, dev=dev)
