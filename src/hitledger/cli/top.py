"""The hottest URLs in a terminal, as they climb.

The counts are read by a thread of their own, once a second and whenever keys ask for something
else, so that keys are obeyed at once however slow the ledger or the service is.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click
from rich.console import Console
from rich.live import Live

from hitledger.cli.drawing import FRAME_LINES, Glyphs, draw, harmless
from hitledger.cli.output import print_table
from hitledger.cli.remote import Place, View, place_of
from hitledger.cli.screen import PERIODS, Screen
from hitledger.errors import HitledgerError, ServiceError

LOOK_SECONDS = 1.0
ONCE_ROWS = 20


class Looker:
    """Reads the counts in the background; `fd` can be read when there is something new."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._wanted: dict[str, str] = {}
        self._found: tuple[dict[str, str], View | HitledgerError] | None = None
        self._changed = threading.Event()
        self._lock = threading.Lock()
        self.fd, self._ring = os.pipe()
        threading.Thread(target=self._run, name="hitledger-top", daemon=True).start()

    def want(self, wanted: dict[str, str]) -> None:
        """Have it look for something else, now; nothing for an empty wish, as while paused."""
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    def found(self) -> View | HitledgerError | None:
        """Return what was read of what is wanted, once."""
        with self._lock:
            found, self._found = self._found, None
        return found[1] if found and found[0] == self._wanted else None

    def _run(self) -> None:
        while True:
            self._changed.wait(LOOK_SECONDS)
            self._changed.clear()
            wanted = self._wanted
            if not wanted:
                continue
            try:
                found: View | HitledgerError = self._place.look(wanted)
            except HitledgerError as error:
                found = error
            with self._lock:
                self._found = wanted, found
            os.write(self._ring, b".")


@click.command()
@click.option("--url", help="Look at the service there, over HTTP. [default: the ledger of the settings]")
@click.option("--once", is_flag=True, help="Print one page and end.")
@click.option("--period", type=click.Choice(list(PERIODS)), default="all", show_default=True)
@click.option("--search", default="", help="Only URLs that contain this text.")
@click.option("--sections", is_flag=True, help="Sections instead of URLs.")
def top(*, url: str | None, once: bool, period: str, search: str, sections: bool) -> None:
    """Watch the most requested URLs climb. The keys are shown at the bottom; h tells of all."""
    place = place_of(url)
    screen = Screen(period=period, search=search, sections=sections)
    if once:
        _print_once(place, screen)
    elif not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ServiceError("`hitledger top` needs a terminal.", "`hitledger top --once` prints one page anywhere.")
    else:
        with suppress(KeyboardInterrupt):
            _watch(place, screen)


def _print_once(place: Place, screen: Screen) -> None:
    view = place.look(screen.wanted(ONCE_ROWS))
    total = max(1, view.part_requests)
    rows = [(hits, f"{100 * hits / total:.1f} %", harmless(name)) for name, hits in view.rows]
    name = "section" if screen.sections and not screen.search else "url"
    print_table(("requests", "share", name), rows)
    click.echo(f"\n{view.total_requests:,} requests, {PERIODS[screen.period]}, until {view.as_of:%Y-%m-%dT%H:%M:%SZ}")


def _watch(place: Place, screen: Screen) -> None:
    console = Console(highlight=False)
    glyphs = Glyphs.of(console.encoding)
    looker = Looker(place)
    with _single_keys(), Live(console=console, screen=True, auto_refresh=False) as live:
        while not screen.ended:
            height = max(1, console.size.height - FRAME_LINES)
            looker.want({} if screen.paused and screen.view else screen.wanted(height))
            live.update(draw(screen, console.size.width, console.size.height, glyphs), refresh=True)
            ready = select.select([sys.stdin, looker.fd], [], [], LOOK_SECONDS)[0]
            if looker.fd in ready:
                os.read(looker.fd, 1024)
            found = looker.found()
            if isinstance(found, View):
                screen.take(found)
            elif found:
                screen.error = found.message
            if sys.stdin in ready:
                screen.press(_keys(), height)


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


def _keys() -> str:
    """Return what was pressed; a terminal that is gone has pressed q."""
    keys = os.read(sys.stdin.fileno(), 1024)
    return keys.decode("utf-8", "ignore") if keys else "q"
