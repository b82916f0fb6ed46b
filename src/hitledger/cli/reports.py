"""What has been requested, and how often."""

from __future__ import annotations

import json
import shlex
from typing import Any
from urllib.parse import parse_qs, urlsplit

import click

from hitledger.cli.options import row_options, row_parameters
from hitledger.cli.output import json_option, print_json, print_table
from hitledger.cli.remote import service_at
from hitledger.embedded import with_ledger
from hitledger.ledger import LedgerStore
from hitledger.posting import Poster
from hitledger.report import Query, Reports
from hitledger.report.page import Columns, rfc3339
from hitledger.report.query import MOST_LIMIT
from hitledger.settings import Settings

TABLE_ROWS = 50


@click.command()
@click.option("--limit", type=click.IntRange(1, MOST_LIMIT), help=f"Most rows to print. [default: {TABLE_ROWS}]")
@click.option("--cursor", help="Go on behind the page whose `next` this is.")
@click.option("--url", help="Ask the service there, over HTTP. [default: the ledger of the settings]")
@row_options
@json_option
def stats(*, limit: int | None, cursor: str | None, url: str | None, as_json: bool, **given: str | None) -> None:
    """Print the URLs, sections or routes, most requested first, after posting this host's journal."""
    rows = row_parameters(given)
    page = {"limit": str(limit or TABLE_ROWS)} | ({"cursor": cursor} if cursor else {})
    query = Query.read(rows | page)
    document = _of_service(url, rows | page) if url else _of_ledger(query)
    if as_json:
        print_json(document)
        return
    _print(document, query.columns)
    if document["next"]:
        place = [word for name, text in rows.items() for word in (f"--{name}", text)]
        place += ["--url", url] if url else []
        click.echo(f"More: {shlex.join(['hitledger', 'stats', *place, '--cursor', document['next']])}")


def _of_ledger(query: Query) -> dict[str, Any]:
    """Return the page as `/stats/` answers it, but with the cursor itself as `next`."""
    settings = with_ledger(Settings.from_environment())
    store = LedgerStore(settings)
    Poster(settings, store).post_now()
    page = Reports(store, settings).page(query)
    return {"as_of": rfc3339(page.as_of), **page.head, page.named: json.loads(page.rows_json), "next": page.cursor}


def _of_service(url: str, parameters: dict[str, str]) -> dict[str, Any]:
    document = service_at(url).page(parameters)
    following = parse_qs(urlsplit(document["next"] or "").query)
    return {**document, "next": following["cursor"][0] if following else None}


def _print(document: dict[str, Any], columns: Columns) -> None:
    name, *numbers = columns
    rows = [[*(row[number] for number in numbers), row[name]] for row in document[f"{name}s"]]
    # On a line there is no URL.
    rows += [[requests, *[0] * (len(numbers) - 1), line] for line, requests in document["other"].items() if requests]
    print_table([*numbers, name], rows)
    part = f"{document['section']['requests']:,} of " if "section" in document else ""
    urls = f" to {document['total_urls']:,} URLs" if document["total_urls"] is not None else ""
    click.echo(f"\n{part}{document['total_requests']:,} requests{urls} until {document['as_of']}")
    if not document.get("complete", True):
        click.echo("The search stopped when its time was up.")
