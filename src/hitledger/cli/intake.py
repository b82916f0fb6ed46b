"""Take hits from other programs of this host."""

from __future__ import annotations

import asyncio
import logging

import click

from hitledger.cli.options import environment_with, setting_options
from hitledger.counter import CLOSE_SECONDS, Counter
from hitledger.counting import HitCounter
from hitledger.embedded import with_ledger
from hitledger.intake import Intake, listening
from hitledger.ledger import LedgerStore
from hitledger.logs import configure_logging
from hitledger.settings import Settings

log = logging.getLogger("hitledger.intake")


@click.command()
@setting_options("intake_socket", "intake_mode", "data_dir", "redis_url", cut="intake_")
def intake(**options: str | None) -> None:
    """Count lines that other programs of this host send, until Ctrl-C or SIGTERM.

    A line is `/path` or `<hits> /path`, and each is answered: `ok` once it is in the journal, or
    `error` and why it is not counted.
    """
    settings = with_ledger(Settings.from_environment(environment_with(options)))
    configure_logging(settings)
    path = settings.intake_socket
    if path is None:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = settings.data_dir / "intake.sock"
    with listening(path, int(settings.intake_mode, 8)) as listener:
        counter = HitCounter(settings, LedgerStore(settings))
        counter.start()
        try:
            asyncio.run(Intake(Counter(counter)).run(listener, lambda: log.info("Counting lines on %s", path)))
        finally:
            counter.stop(CLOSE_SECONDS)
