"""Work on the books: posting, auditing them, and starting them anew."""

from __future__ import annotations

from contextlib import suppress

import click

from hitledger.audit import AuditReport
from hitledger.audit import audit as audit_books
from hitledger.cli.output import json_option, print_json, print_table
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
@json_option
def audit(*, as_json: bool) -> int:
    """Prove that every hit received is posted, pending, refused or lost, and that all sums agree.

    Works on a live ledger and holds nothing up. Exit status 1 and a line for each difference.
    """
    settings = with_ledger(Settings.from_environment())
    report = audit_books(settings, LedgerStore(settings))
    if as_json:
        print_json(report.as_json())
    else:
        _print(report)
    return 1 if report.differences else 0


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


def _print(report: AuditReport) -> None:
    print_table(("hits", "balance"), [(hits, name) for name, hits in report.balance.items()])
    click.echo()
    shards = [(f"{s.shard}", s.requests, s.in_sets, s.by_watermarks, s.lost, s.damaged) for s in report.shards]
    print_table(("shard", "total", "in URLs and lines", "by watermarks", "lost", "damaged"), shards)
    kept = [(f"{s.shard}", s.state, s.sections, s.urls, s.wrong_in_all) for s in report.sections if s.state != ABSENT]
    if kept:
        click.echo()
        print_table(("shard", "its sections are", "sections", "URLs in them", "differences"), kept)
    if report.journals:
        click.echo()
        rows = [(j.journal, j.state, j.received, j.posted, j.pending, j.refused, j.lost) for j in report.journals]
        print_table(("journal", "state", "received", "posted", "pending", "refused", "lost"), rows)
    click.echo()
    for line in report.differences:
        click.echo(f"DIFFERENCE {line}")
    if not report.differences:
        click.echo("In balance: received = posted + pending + refused + lost, and every sum agrees.")
