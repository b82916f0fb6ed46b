"""What has been requested, and how often."""

from __future__ import annotations

import click

from hitledger.cli.output import json_option, print_json, print_table
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
@json_option
def stats(*, limit: int | None, cursor: str | None, as_json: bool) -> None:
    """Print the URLs, most requested first, after posting this host's journal."""
    settings = with_ledger(Settings.from_environment())
    store = LedgerStore(settings)
    Poster(settings, store).post_now()
    page = Reports(store, settings).page(Query(limit=limit or TABLE_ROWS, cursor=cursor))
    if as_json:
        print_json(_document(page))
    else:
        _print(page)


def _document(page: Page) -> dict[str, object]:
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


def _print(page: Page) -> None:
    counted = [(row.requests, row.url) for row in page.rows]
    beside = [(requests, line) for line, requests in page.other.items() if requests]
    print_table(("requests", "url"), [*counted, *beside])
    click.echo(f"\n{page.total_requests:,} requests to {page.total_urls:,} URLs until {rfc3339(page.as_of)}")
    if page.cursor:
        click.echo(f"More: hitledger stats --cursor {page.cursor}")
