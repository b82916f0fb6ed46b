"""Have the ledger keep its sections while posting, or not any more."""

from __future__ import annotations

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hitledger import tree
from hitledger.embedded import with_ledger
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings

COLUMNS = (TextColumn("Filling"), BarColumn(), MofNCompleteColumn(), TextColumn("URLs"), TimeRemainingColumn())


@click.command()
@click.argument("action", type=click.Choice(["keep", "drop", "status"]), default="status")
def sections(*, action: str) -> None:
    """Have the ledger keep the totals of its sections, or drop them; say what it does.

    With `keep`, reports of sections come at once, and posting costs more; see the page on reports. Counting goes on
    meanwhile, and what was broken off is taken up again.
    """
    store = LedgerStore(with_ledger(Settings.from_environment()))
    if action == "keep":
        with Progress(*COLUMNS, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=store.totals().urls)
            tree.keep(store, lambda urls: progress.advance(task, urls))
    elif action == "drop":
        tree.drop(store)
    states = {state for _, state in tree.states(store)}
    click.echo(f"Sections are {' and '.join(sorted(states))}.")
