"""Work on the books: posting, auditing them, and starting them anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import click
from rich.console import Console

from hitledger.audit import audit as audit_books
from hitledger.cli.output import json_option, print_json, print_table
from hitledger.cli.remote import service_at
from hitledger.embedded import with_ledger
from hitledger.errors import LedgerError
from hitledger.ledger import LedgerStore
from hitledger.posting import Poster
from hitledger.settings import Settings
from hitledger.tree import ABSENT


@click.command()
def post() -> None:
    """Post now what this host's journal holds; nothing is booked twice."""
    settings = with_ledger(Settings.from_environment())
    store = LedgerStore(settings)
    Poster(settings, store).post_now()
    click.echo(f"Everything in {settings.journal_dir.absolute()} is posted.")


@click.command()
@click.option("--url", help="Have the service there audit, over HTTP. [default: the ledger of the settings]")
@json_option
def audit(*, url: str | None, as_json: bool) -> int:
    """Prove that every hit received is posted, pending, refused or lost, and that all sums agree.

    Works on a live ledger and holds nothing up. The journal is this host's; with --url, that of the host that answers.
    Exit status 1 and a line for each difference.
    """
    with Console(stderr=True).status("Auditing"):
        report = service_at(url).audited() if url else _audited()
    if as_json:
        print_json(report)
    else:
        _print(report)
    return 1 if report["differences"] else 0


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(*, yes: bool) -> None:
    """Drop all counts and start anew. Hits that were posted do not come back.

    What other hosts have journalled and not posted yet is counted afterwards.
    """
    settings = with_ledger(Settings.from_environment())
    store = LedgerStore(settings)
    total = store.totals()
    if not yes:
        click.confirm(f"Drop {total.requests:,} requests to {total.urls:,} URLs?", abort=True)
    with suppress(LedgerError):  # a shard that refuses to be posted to can still be started anew
        Poster(settings, store).post_now()
    click.echo(f"Dropped {store.reset():,} requests. Counting goes on from zero.")


def _audited() -> dict[str, Any]:
    settings = with_ledger(Settings.from_environment())
    return audit_books(settings, LedgerStore(settings)).as_json()


def _print(report: dict[str, Any]) -> None:
    print_table(("hits", "balance"), [(hits, name) for name, hits in report["balance"].items()])
    shards = [{**each, "shard": f"{each['shard']}"} for each in report["shards"]]
    _print_some(
        shards,
        {"shard": "shard", "requests": "total", "in_sets": "in URLs and lines", "by_watermarks": "by watermarks",
         "lost": "lost", "damaged": "damaged"},
    )  # fmt: skip
    kept = [{**each, "shard": f"{each['shard']}"} for each in report["sections"] if each["state"] != ABSENT]
    _print_some(
        kept,
        {"shard": "shard", "state": "its sections are", "sections": "sections", "urls": "URLs in them",
         "wrong_in_all": "differences"},
    )  # fmt: skip
    columns = ("journal", "state", "received", "posted", "pending", "refused", "lost")
    _print_some(report["journals"], {name: name for name in columns})
    click.echo()
    for line in report["differences"]:
        click.echo(f"DIFFERENCE {line}")
    if not report["differences"]:
        click.echo("In balance: received = posted + pending + refused + lost, and every sum agrees.")


def _print_some(entries: Sequence[dict[str, Any]], columns: Mapping[str, str]) -> None:
    """Print a table of some of the entries' members, each under its column's name; nothing for no entries."""
    if entries:
        click.echo()
        print_table(list(columns.values()), [[each[name] for name in columns] for each in entries])
