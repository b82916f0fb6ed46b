"""Everything that is counted, as a file."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from hitledger.cli.options import row_options, row_parameters
from hitledger.cli.remote import service_at
from hitledger.embedded import with_ledger
from hitledger.ledger import LedgerStore
from hitledger.posting import Poster
from hitledger.report import Query, Reports
from hitledger.report.cursor import Place
from hitledger.report.export import ENCODERS, begun
from hitledger.report.page import ROUTES, SECTIONS, URLS
from hitledger.report.source import Flat
from hitledger.settings import Settings

MOST_ROW_BYTES = 2**18
"""More than the longest row has."""
NAMES = [columns[0] for columns in (URLS, SECTIONS, ROUTES)]
BEGINNINGS = {"ndjson": [f'{{"{name}":"' for name in NAMES], "csv": [f"{name},requests" for name in NAMES]}


@click.command()
@click.option("--format", "kind", type=click.Choice(sorted(ENCODERS)), default="ndjson", show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write here, not to standard output.")
@click.option("--resume", is_flag=True, help="Go on behind the last whole row of --output, as ndjson or csv.")
@click.option("--url", help="Ask the service there, over HTTP. [default: the ledger of the settings]")
@click.option("--unordered", is_flag=True, help="As is quickest, instead of most requested first.")
@row_options
def export(
    *, kind: str, output: Path | None, resume: bool, url: str | None, unordered: bool, **given: str | None
) -> None:
    """Write all URLs, sections or routes with their requests; memory stays flat, however many there are."""
    parameters = row_parameters(given)
    query = Query.read(parameters)
    if resume and (output is None or kind == "parquet"):
        raise click.UsageError("--resume needs --output, and goes on as ndjson or csv.")
    written = Written.of(output, kind) if resume and output else Written()
    if url:
        after = {"after": f"{written.place[0]}:{written.place[1]}"} if written.place else {}
        order = {"format": kind, "order": "none" if unordered else "requests"}
        chunks = service_at(url).exported({**parameters, **order, **after})
        chunks = _watched_bytes(chunks) if output else chunks
    else:
        chunks = _of_ledger(query, written, kind, unordered=unordered, watched=output is not None)
    chunks = begun(chunks)
    if written.has_head:
        chunks = _without_first_line(chunks)
    if output is None:
        _write(sys.stdout.buffer, chunks)
        return
    with output.open("ab" if written.length else "wb") as file:
        _write(file, chunks)


@dataclass(frozen=True)
class Written:
    """What an export that broke off has written: bytes, its last row's place, whether a head of columns is there."""

    length: int = 0
    place: Place | None = None
    has_head: bool = False

    @classmethod
    def of(cls, output: Path, kind: str) -> Self:
        """Look at a file's end, and cut off what is no whole row; raises UsageError where it has other rows."""
        if not output.exists():
            return cls()
        with output.open("r+b") as file:
            start = max(0, file.seek(0, os.SEEK_END) - MOST_ROW_BYTES)
            file.seek(start)
            whole, newline, _ = file.read().rpartition(b"\n")
            try:
                if not newline and start == 0:
                    file.seek(0)
                    _demand_beginning(file.read(64).decode(), kind)
                    file.truncate(0)
                    return cls()
                place = _place_in(whole.rpartition(b"\n")[2].decode(), kind)
            except (ValueError, KeyError, IndexError, AttributeError, StopIteration):
                raise click.UsageError(f"{output} does not end with rows of {kind}; nothing was changed.") from None
            length = start + len(whole) + 1
            file.truncate(length)
        return cls(length, place, kind == "csv")


def _demand_beginning(text: str, kind: str) -> None:
    """Raise ValueError where a text is not what an export begins with, or a part of that."""
    if not any(text[: len(head)] == head[: len(text)] for head in BEGINNINGS[kind]):
        raise ValueError(text)


def _place_in(line: str, kind: str) -> Place | None:
    """Return the place of a row; None for a head of columns."""
    if kind == "ndjson":
        row = json.loads(line)
        return int(row["requests"]), str(next(row[name] for name in NAMES if name in row))
    name, requests, *_ = next(csv.reader([line]))
    # A quotation mark is put before what could be a formula, and before another one.
    return None if requests == "requests" else (int(requests), name.removeprefix("'"))


def _of_ledger(query: Query, written: Written, kind: str, *, unordered: bool, watched: bool) -> Iterator[bytes]:
    settings = with_ledger(Settings.from_environment())
    store = LedgerStore(settings)
    Poster(settings, store).post_now()
    rows = Reports(store, settings).rows(query, written.place, in_order=not unordered)
    if watched:
        total = store.totals().urls if not query.rows_parameters and not written.place else None
        rows = _watched(rows, total, len(query.columns))
    return ENCODERS[kind](rows, query.columns)


def _without_first_line(chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        _, found, rest = chunk.partition(b"\n")
        if found:
            yield rest
            break
    yield from chunks


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


def _watched_bytes(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield pieces and show how much came, on a terminal."""
    columns = (TextColumn("Exporting"), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=None)
        for chunk in chunks:
            yield chunk
            progress.advance(task, len(chunk))
