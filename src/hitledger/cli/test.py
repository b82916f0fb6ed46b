"""Start a test run from the command line and follow it to its end."""

from __future__ import annotations

import time
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hitledger.cli.output import json_option, print_json
from hitledger.cli.remote import Place, place_of
from hitledger.testrun.pace import Pace

LOOK_SECONDS = 0.2
OPEN = ("queued", "running")


@click.command()
@click.argument("n", type=click.IntRange(1))
@click.option("--url", help="The service that shall test itself. [default: the service of this data folder or ledger]")
@json_option
def test(*, n: int, url: str | None, as_json: bool) -> int:
    """Have the service send N random GET requests to itself, and wait for the end; Ctrl-C cancels the run.

    Exit status 1 where a request failed or the run did not finish.
    """
    place = place_of(url)
    run = place.start(n)
    try:
        run = _follow(place, run)
    except KeyboardInterrupt:
        place.cancel(run["id"])
        run = _follow(place, run)
    if as_json:
        print_json(run)
    else:
        click.echo(_summary(run))
    return 0 if run["status"] == "finished" and not run["failed"] else 1


test.__test__ = False  # type: ignore[attr-defined] # no test, whatever its name makes test runners think


def _follow(place: Place, run: dict[str, Any]) -> dict[str, Any]:
    """Show a run's progress until it has ended."""
    pace = Pace()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(run["status"], total=run["requested"], rate="")
        while run["status"] in OPEN:
            time.sleep(LOOK_SECONDS)
            run = place.run(run["id"])
            rate = pace.take(run["sent"]) if run["status"] == "running" else None
            shown = "" if rate is None else f"{rate:,.0f}/s now"
            progress.update(task, completed=run["sent"], description=run["status"], rate=shown)
    return run


def _summary(run: dict[str, Any]) -> str:
    sent = f"{run['sent']:,} of {run['requested']:,} requests sent, {run['failed']:,} failed"
    lines = [f"{run['status']}: {sent}, to {run['distinct_urls']:,} URLs"]
    if run["error"]:
        lines.append(run["error"])
    if run["requests_per_second"]:
        lines.append(f"{run['requests_per_second']:,.0f} requests/s")
    if run["latency_ms"]:
        lines.append("; ".join(f"{name} {value:,.1f} ms" for name, value in run["latency_ms"].items()))
    return "\n".join(lines)
