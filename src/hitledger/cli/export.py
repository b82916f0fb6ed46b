"""Everything that is counted, as a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hitledger.embedded import with_ledger
from hitledger.ledger import LedgerStore
from hitledger.posting import Poster
from hitledger.report import Query, Reports
from hitledger.report.export import ENCODERS
from hitledger.report.source import Flat
from hitledger.settings import Settings


@click.command()
@click.option("--format", "kind", type=click.Choice(sorted(ENCODERS)), default="ndjson", show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write here, not to standard output.")
@click.option("--unordered", is_flag=True, help="As is quickest, instead of most requested first.")
@click.option("--period", help="all, hour, day or month.")
@click.option("--at", help="Which of them.")
@click.option("--from", "start", help="From this hour or day on, instead of a period ...")
@click.option("--to", "end", help="... up to, not including, this one.")
@click.option("--tz", help="IANA time zone of these times.")
@click.option("--prefix", help="Only URLs that begin so.")
@click.option("--under", help="A section's children, with their totals.")
@click.option("--group", help="Sections of so many segments, or `patterns`.")
@click.option("--search", help="Only URLs that contain this.")
def export(*, kind: str, output: Path | None, unordered: bool, **given: str | None) -> None:
    """Write all URLs, or sections, with their requests; memory stays flat, however many there are."""
    names = {"start": "from", "end": "to"}
    query = Query.read({names.get(name, name): text for name, text in given.items() if text is not None})
    settings = with_ledger(Settings.from_environment())
    store = LedgerStore(settings)
    Poster(settings, store).post_now()
    rows = Reports(store, settings).rows(query, in_order=not unordered)
    if output is None:
        _write(sys.stdout.buffer, ENCODERS[kind](rows, query.width))
        return
    total = store.totals().urls if not query.rows_parameters else None
    with output.open("wb") as file:
        _write(file, ENCODERS[kind](_watched(rows, total, query.width), query.width))


def _write(file: BinaryIO, chunks: Iterator[bytes]) -> None:
    file.writelines(chunks)
    file.flush()


def _watched(rows: Iterator[Flat], total: int | None, width: int) -> Iterator[Flat]:
    """Yield rows and show how far they are, on a terminal."""
    columns = (TextColumn("Exporting"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total)
        for flat in rows:
            yield flat
            progress.advance(task, len(flat) // width)
