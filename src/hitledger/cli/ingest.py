"""Counts from the access logs of other servers."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from hitledger.cli.output import json_option, print_json
from hitledger.embedded import with_ledger
from hitledger.errors import SettingsError
from hitledger.ingest.follow import follow
from hitledger.ingest.formats import format_of
from hitledger.ingest.reading import Source
from hitledger.ingest.run import FileReport, Options, Run
from hitledger.ingest.tally import Account
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings

STANDARD_INPUT = Path("-")


@click.command()
@click.argument(
    "files",
    metavar="FILE...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
)
@click.option("--format", "text", help="common, combined, json, haproxy, envoy, alb ..., or nginx's own log_format.")
@click.option("--source", default="", help="Where the logs are from: sets equal logs of several hosts apart.")
@click.option("--tz", default="UTC", show_default=True, help="IANA time zone of times that name none.")
@click.option("--follow", is_flag=True, help="Go on as the logs are written and rotated, until Ctrl-C or SIGTERM.")
@click.option("--dry-run", is_flag=True, help="Say what the lines hold; the ledger is not even asked.")
@json_option
def ingest(files: Sequence[Path], text: str | None, source: str, tz: str, **flags: bool) -> int:
    """Count what access logs hold, exactly once; "-" is standard input.

    Plain, gzip or zstd; nginx, Apache, Caddy, Traefik, HAProxy, Envoy, AWS ALB. A log is known by its content:
    however often it is given, interrupted, renamed, rotated or packed, each line counts once.

    Exit status 1 where a file could not be read to its end.
    """
    options = Options(format_of(text) if text else None, source, _zone(tz))
    dry_run = flags["dry_run"]
    if flags["follow"] and (dry_run or STANDARD_INPUT in files):
        raise click.UsageError("--follow is for files, and not with --dry-run: standard input ends by itself.")
    settings = Settings.from_environment()
    run = Run(settings, None, options) if dry_run else _run(with_ledger(settings), options)
    began = time.monotonic()
    reports: list[FileReport] = []
    if flags["follow"]:
        _follow(run, files, reports)
    else:
        with _progress(files, run):
            reports += [run.ingest(None if path == STANDARD_INPUT else path) for path in files]
    content = _content(reports, time.monotonic() - began, dry_run=dry_run)
    if flags["as_json"]:
        print_json(content)
    else:
        _print(content)
    return 1 if any(report.trouble for report in reports) else 0


def _follow(run: Run, files: Sequence[Path], reports: list[FileReport]) -> None:
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    logging.basicConfig(format="hitledger: %(message)s")
    follow(run, files, reports, over.is_set)


def _run(settings: Settings, options: Options) -> Run:
    store = LedgerStore(settings)
    store.open()
    return Run(settings, store, options)


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:
        raise SettingsError(f"There is no time zone {name[:60]!r}.", "Use a name like Europe/Berlin.") from error


@contextmanager
def _progress(files: Sequence[Path], run: Run) -> Iterator[None]:
    """Show on a terminal how far a run is, how fast, and how long it will take."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rate]}"))
    console = Console(stderr=True)
    hidden = not console.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=hidden) as progress:
        sizes = {str(path): path.stat().st_size for path in files if path != STANDARD_INPUT}
        whole = sum(sizes.values()) if len(sizes) == len(files) else None
        task = progress.add_task("Reading", total=whole, rate="")
        done: dict[str, int] = {}

        def show(source: Source, booked: float) -> None:
            done[source.name] = max(done.get(source.name, 0), source.read_bytes)
            read = sum(done.values())
            speed = progress.tasks[0].speed
            word = f"Booking {booked:4.0%}" if booked else "Reading"
            rate = f"{speed / 2**20:,.0f} MiB/s" if speed else ""
            progress.update(task, completed=read, description=word, rate=rate)

        run.on_progress = show
        yield


def _content(reports: Sequence[FileReport], seconds: float, *, dry_run: bool) -> dict[str, Any]:
    whole = Account()
    for report in reports:
        whole.add(report.account)
    return {
        "dry_run": dry_run,
        "files": [_file(report) for report in reports],
        **_account(whole),
        "seconds": round(seconds, 3),
        "lines_per_second": round(whole.lines / seconds) if seconds else 0,
    }


def _file(report: FileReport) -> dict[str, Any]:
    return {
        "file": report.file,
        "format": report.format,
        "log": report.log,
        "known_bytes": report.known_bytes,
        "unfinished_bytes": report.unfinished_bytes,
        "state": _state(report),
        "trouble": report.trouble,
        **_account(report.account),
    }


def _state(report: FileReport) -> str:
    if report.trouble:
        return "not read to its end"
    if report.is_empty:
        return "empty"
    if report.is_copy or (report.known_bytes and not report.account.lines):
        return "counted before"
    return "continued" if report.known_bytes else "new"


def _account(account: Account) -> dict[str, Any]:
    return {
        "lines": account.lines,
        "counted": account.counted,
        "skipped": dict(account.skipped.most_common()),
        "bad": dict(account.bad.most_common()),
        "examples": [{"reason": reason, "line": line} for reason, line in account.examples],
        "urls": None if account.urls is None else len(account.urls),
        "from": _minute(account.first),
        "to": _minute(account.last),
    }


def _minute(minute: int | None) -> str | None:
    return None if minute is None else f"{datetime.fromtimestamp(minute * 60, UTC):%Y-%m-%dT%H:%MZ}"


def _print(content: dict[str, Any]) -> None:
    """Print a summary for people; what needs their attention goes to standard error."""
    for each in content["files"]:
        known = f", {each['known_bytes']:,} bytes known" if each["known_bytes"] else ""
        form = f" ({each['format']})" if each["format"] else ""
        click.echo(
            f"{each['file']}{form}: {each['state']}{known}, {each['counted']:,} of {each['lines']:,} lines counted"
        )
        if each["unfinished_bytes"]:
            click.echo(f"  a last line without its end is left for the next run: {each['unfinished_bytes']:,} bytes")
        if each["trouble"]:
            click.echo(f"hitledger: {each['trouble']}", err=True)
    if content["dry_run"]:
        click.echo("Nothing was booked: this was a dry run.")
    urls = "" if content["urls"] is None else f", {content['urls']:,} URLs"
    click.echo(
        f"{content['lines']:,} lines, {content['counted']:,} counted{urls}, "
        f"{content['seconds']:,.1f} s, {content['lines_per_second']:,} lines/s"
    )
    if content["from"]:
        click.echo(f"from {content['from']} to {content['to']}")
    for kind in ("skipped", "bad"):
        for reason, count in content[kind].items():
            click.echo(f"{kind}: {count:,} {reason}")
    for example in content["examples"]:
        click.echo(f"  {example['reason']}: {example['line']}")
