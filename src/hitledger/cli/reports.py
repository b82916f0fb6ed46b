"""What has been requested, and how often."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import click

from hitledger.cli.output import json_option, print_json, print_table
from hitledger.cli.remote import service_at
from hitledger.embedded import with_ledger
from hitledger.ledger import LedgerStore
from hitledger.paths import LINES
from hitledger.posting import Poster
from hitledger.report import Page, Query, Reports
from hitledger.report.page import rfc3339
from hitledger.report.query import MOST_LIMIT
from hitledger.settings import Settings

TABLE_ROWS = 50


@click.command()
@click.option("--limit", type=click.IntRange(1, MOST_LIMIT), help=f"Most URLs to print. [default: {TABLE_ROWS}]")
@click.option("--cursor", help="Go on behind the page whose `next` this is.")
@click.option("--url", help="Ask the service there, over HTTP. [default: the ledger of the settings]")
@json_option
def stats(*, limit: int | None, cursor: str | None, url: str | None, as_json: bool) -> None:
    """Print the URLs, most requested first, after posting this host's journal."""
    query = Query(limit=limit or TABLE_ROWS, cursor=cursor)
    document = _of_service(url, query) if url else _of_ledger(query)
    if as_json:
        print_json(document)
    else:
        _print(document, f" --url {url}" if url else "")


def _of_ledger(query: Query) -> dict[str, Any]:
    settings = with_ledger(Settings.from_environment())
    store = LedgerStore(settings)
    Poster(settings, store).post_now()
    return _document(Reports(store, settings).page(query))


def _of_service(url: str, query: Query) -> dict[str, Any]:
    cursor = {"cursor": query.cursor} if query.cursor else {}
    document = service_at(url).page({"limit": str(query.limit), **cursor})
    following = parse_qs(urlsplit(document["next"] or "").query)
    return {**document, "next": following["cursor"][0] if following else None}


def _document(page: Page) -> dict[str, Any]:
    """Return the page as `/stats/` answers it, but with the cursor itself as `next`."""
    return {
        "as_of": rfc3339(page.as_of),
        "period": page.period,
        "total_requests": page.total_requests,
        "total_urls": page.total_urls,
        "other": {line: page.other.get(line, 0) for line in LINES},
        "urls": [row._asdict() for row in page.rows],
        "next": page.cursor,
    }


def _print(document: dict[str, Any], place: str) -> None:
    counted = [(row["requests"], row["url"]) for row in document["urls"]]
    beside = [(requests, line) for line, requests in document["other"].items() if requests]
    print_table(("requests", "url"), [*counted, *beside])
    click.echo(
        f"\n{document['total_requests']:,} requests to {document['total_urls']:,} URLs until {document['as_of']}"
    )
    if document["next"]:
        click.echo(f"More: hitledger stats{place} --cursor {document['next']}")
