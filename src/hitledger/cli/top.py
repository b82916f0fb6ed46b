"""The hottest URLs in a terminal, as they climb.

The table is drawn anew once a second and after each key. What it shows of URLs is text: no
markup, and no character that a terminal would obey.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hitledger.cli.output import print_table
from hitledger.cli.remote import Place, View, place_of
from hitledger.errors import HitledgerError, ServiceError
from hitledger.report.query import MOST_LIMIT

PERIODS = {"all": "all time", "hour": "this hour", "day": "today", "month": "this month"}
FRAME_LINES = 5
"""Lines of the screen that hold no row."""
ONCE_ROWS = 20
KEYS = "p period  / filter  s sections  space pause  q quit"


@dataclass
class Screen:
    """What is looked at, and how; keys change it."""

    period: str = "all"
    search: str = ""
    sections: bool = False
    typing: bool = False
    paused: bool = False
    ended: bool = False
    view: View | None = None
    rate: float | None = None
    error: str = ""

    @property
    def parameters(self) -> dict[str, str]:
        """What is asked of the report."""
        given = {"period": self.period if self.period != "all" else "", "search": self.search}
        if self.sections and not self.search:
            given["group"] = "2"
        return {name: text for name, text in given.items() if text}

    def press(self, keys: str) -> None:
        """Do what keys say, one after the other."""
        before = self.parameters
        for key in keys:
            if self.typing:
                self._type(key)
            elif key == "p":
                names = list(PERIODS)
                self.period = names[(names.index(self.period) + 1) % len(names)]
            elif key == "s":
                self.sections = not self.sections
            elif key == " ":
                self.paused = not self.paused
            elif key == "/":
                self.typing = True
            elif key == "\x1b":
                self.search = ""
            elif key in ("q", "\x04"):
                self.ended = True
        if self.parameters != before:
            self.view = self.rate = None

    def _type(self, key: str) -> None:
        if key in ("\r", "\n"):
            self.typing = False
        elif key == "\x1b":
            self.typing, self.search = False, ""
        elif key in ("\x7f", "\b"):
            self.search = self.search[:-1]
        elif key.isprintable():
            self.search += key

    def look(self, place: Place, rows: int) -> None:
        """Read the counts again; where that fails, the last ones stay, with the reason."""
        try:
            view = place.look({**self.parameters, "limit": str(max(1, min(rows, MOST_LIMIT)))})
        except HitledgerError as error:
            self.error = error.message
            return
        if self.view and view.as_of > self.view.as_of and view.total_requests >= self.view.total_requests:
            seconds = (view.as_of - self.view.as_of).total_seconds()
            self.rate = (view.total_requests - self.view.total_requests) / seconds
        self.view, self.error = view, ""

    def draw(self, rows: int) -> Group:
        """Return the screen's content, `rows` rows of it."""
        head = Text(f"hitledger top, {PERIODS[self.period]}", style="bold", no_wrap=True, overflow="ellipsis")
        figures = Text(no_wrap=True, overflow="ellipsis")
        table = Table(box=None, expand=True, pad_edge=False, header_style="reverse")
        table.add_column("#", justify="right", width=5)
        table.add_column("requests", justify="right", width=15)
        table.add_column("share", justify="right", width=7)
        table.add_column("section" if self.sections and not self.search else "URL", no_wrap=True, overflow="ellipsis")
        if self.view:
            total = self.view.total_requests
            rate = "" if self.rate is None else f"{self.rate:,.0f} requests/s, "
            urls = "" if self.view.total_urls is None else f" to {self.view.total_urls:,} URLs"
            figures.append(f"{rate}{total:,} requests{urls}, as of {self.view.as_of.astimezone():%H:%M:%S}")
            for rank, (name, hits) in enumerate(self.view.rows[:rows], 1):
                table.add_row(f"{rank:,}", f"{hits:,}", f"{hits / max(total, 1):.1%}", Text(harmless(name)))
        if self.paused:
            head.append("  PAUSED", style="reverse")
        keys = Text(KEYS, style="dim", no_wrap=True, overflow="ellipsis")
        if self.typing:
            keys = Text(f"filter: {self.search}_  Enter keeps it, Esc drops it", no_wrap=True, overflow="ellipsis")
        elif self.search:
            keys = Text(
                f"filter: {self.search}  / changes it, Esc drops it, q quits", no_wrap=True, overflow="ellipsis"
            )
        return Group(head, figures, Text(self.error, style="bold red", no_wrap=True, overflow="ellipsis"), keys, table)


def harmless(name: str) -> str:
    """Return a name without anything that a terminal could take for an order."""
    return "".join(each if each.isprintable() else "?" for each in name)


@click.command()
@click.option("--url", help="Look at the service there, over HTTP. [default: the ledger of the settings]")
@click.option("--once", is_flag=True, help="Print one page and end.")
@click.option("--period", type=click.Choice(list(PERIODS)), default="all", show_default=True)
@click.option("--search", default="", help="Only URLs that contain this text.")
def top(*, url: str | None, once: bool, period: str, search: str) -> None:
    """Watch the most requested URLs climb. Keys: p period, / filter, s sections, space pause, q quit."""
    place = place_of(url)
    screen = Screen(period=period, search=search)
    if once:
        _print_once(place, screen)
    elif not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ServiceError("`hitledger top` needs a terminal.", "`hitledger top --once` prints one page anywhere.")
    else:
        _watch(place, screen)


def _print_once(place: Place, screen: Screen) -> None:
    view = place.look({**screen.parameters, "limit": str(ONCE_ROWS)})
    print_table(("requests", "url"), [(hits, harmless(name)) for name, hits in view.rows])
    click.echo(f"\n{view.total_requests:,} requests, {PERIODS[screen.period]}, until {view.as_of:%Y-%m-%dT%H:%M:%SZ}")


def _watch(place: Place, screen: Screen) -> None:
    console = Console(highlight=False)
    with _single_keys(), Live(console=console, screen=True, auto_refresh=False) as live:
        while not screen.ended:
            rows = max(1, console.size.height - FRAME_LINES)
            if not screen.paused or screen.view is None:
                screen.look(place, rows)
            live.update(screen.draw(rows), refresh=True)
            screen.press(_keys(1.0))


@contextmanager
def _single_keys() -> Iterator[None]:
    """Take keys as they are pressed, without showing them."""
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    tty.setcbreak(stdin)
    try:
        yield
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


def _keys(seconds: float) -> str:
    """Return what is pressed within so many seconds; arrows and the like are nothing."""
    stdin = sys.stdin.fileno()
    if not select.select([stdin], [], [], seconds)[0]:
        return ""
    keys = os.read(stdin, 1024)
    if not keys:
        return "q"
    text = keys.decode("utf-8", "ignore")
    return "" if len(text) > 1 and text.startswith("\x1b") else text
