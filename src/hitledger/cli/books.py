"""Work on the books: what moves hits into the ledger."""

from __future__ import annotations

import click

from hitledger.embedded import with_ledger
from hitledger.ledger import LedgerStore
from hitledger.posting import Poster
from hitledger.settings import Settings


@click.command()
def post() -> None:
    """Post now what this host's journal holds; nothing is booked twice."""
    settings = with_ledger(Settings.from_environment())
    store = LedgerStore(settings)
    Poster(settings, store).post_now()
    click.echo(f"Everything in {settings.journal_dir.absolute()} is posted.")
