"""Run the whole service."""

from __future__ import annotations

import logging
from contextlib import suppress

import click

from hitledger.cli.options import environment_with, setting_options
from hitledger.logs import configure_logging
from hitledger.serve import serve as run_service
from hitledger.settings import Settings

log = logging.getLogger("hitledger.serve")


@click.command()
@setting_options("host", "port", "workers", "threads", "data_dir", "redis_url", "self_url")
@click.option("--dev", is_flag=True, help="Start the processes anew when the package's code changes.")
def serve(*, dev: bool, **options: str | None) -> None:
    """Run the whole service until Ctrl-C; the counts are kept.

    It is made of web processes, a worker for test runs and, unless a ledger is set, an
    embedded Valkey. Every other setting is an environment variable: see `hitledger settings`.
    """
    environment = environment_with(options)
    settings = Settings.from_environment(environment)
    configure_logging(settings)
    run_service(environment, log.info if settings.log_format == "json" else _say, dev=dev)


def _say(line: str) -> None:
    with suppress(OSError):  # a terminal that is gone must not end the service
        click.echo(line)
