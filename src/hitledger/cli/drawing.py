"""How `hitledger top` draws its screen: in 80 columns and 24 lines, or whatever there is.

What it shows of URLs is text: no markup, and no character that a terminal would obey.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from hitledger.cli.screen import PERIODS, Screen

FRAME_LINES = 5
"""Lines of the screen that hold no row."""
BAR_COLUMNS = 8
TITLES, CHOSEN, FOOT = "black on green", "black on cyan", "black on cyan"
"""Colours that every terminal has, as htop's."""
KEYS = (
    ("p", "period"),
    ("/", "filter"),
    ("s", "sections"),
    ("o", "order"),
    ("space", "pause"),
    ("h", "help"),
    ("q", "quit"),
)
SECTION_KEYS = (("enter", "open"), ("left", "up"), ("p", "period"), ("s", "URLs"), ("o", "order"), ("q", "quit"))
HELP = """\
p           the next period: all time, this hour, today, this month
/           filter as you type; Enter keeps the filter, Esc drops it
s           sections instead of URLs; Enter or right opens one, left goes up
o           order by requests, or by requests a second just now
arrows      choose a row; also j and k, Page Up and Down, Home and End
space       pause, and go on
q, Ctrl-C   quit

Any key goes back."""


@dataclass(frozen=True)
class Glyphs:
    """What bars and lines are made of."""

    levels: str = "▁▂▃▄▅▆▇█"
    eighths: str = "▏▎▍▌▋▊▉█"
    live: str = "●"

    @classmethod
    def of(cls, encoding: str) -> Glyphs:
        """Return what an encoding can write."""
        return cls() if "utf" in encoding.lower() else cls("_.-=+*#@", "#", "*")


def draw(screen: Screen, columns: int, lines: int, glyphs: Glyphs | None = None) -> Text:
    """Return the whole screen."""
    glyphs = glyphs or Glyphs()
    height = max(1, lines - FRAME_LINES)
    content = [_head(screen, columns, glyphs), _figures(screen), _path(screen)]
    if screen.helping:
        content += [Text(line) for line in ["", *HELP.splitlines()][: height + 1]]
    else:
        content += [_titles(screen, columns), *_rows(screen, columns, height, glyphs)]
    content = content[: lines - 1] + [Text("")] * (lines - 1 - len(content)) + [_foot(screen)]
    for line in content:
        line.no_wrap = True
        line.truncate(columns, overflow="ellipsis")
    return Text("\n").join(content)


def _head(screen: Screen, columns: int, glyphs: Glyphs) -> Text:
    head = Text(f"hitledger top  {PERIODS[screen.period]}", style="bold")
    head.append(" PAUSED " if screen.paused else f" {glyphs.live}", style="reverse" if screen.paused else "green")
    if screen.rates:
        rate = f"{_rate(screen.rates[-1])} requests/s "
        room = columns - head.cell_len - len(rate) - 2
        line = sparkline(list(screen.rates)[-max(0, room) :], glyphs.levels) if room > 0 else ""
        head.append(" " * max(1, columns - head.cell_len - len(rate) - len(line)))
        head.append(rate)
        head.append(line, style="green")
    return head


def _figures(screen: Screen) -> Text:
    view = screen.view
    if view is None:
        return Text(screen.error or "reading ...", style="bold red" if screen.error else "dim")
    if screen.error:
        return Text(f"{screen.error} These are the figures of {view.as_of.astimezone():%H:%M:%S}.", style="bold red")
    urls = "" if view.total_urls is None else f" to {view.total_urls:,} URLs"
    return Text(f"{view.total_requests:,} requests{urls}, as of {view.as_of.astimezone():%H:%M:%S}")


def _path(screen: Screen) -> Text:
    if screen.typing:
        return Text(f"filter: {harmless(screen.search)}_   Enter keeps it, Esc drops it", style="bold")
    if screen.search:
        return Text(f"filter: {harmless(screen.search)}   / changes it, Esc drops it", style="bold")
    if screen.sections:
        view = screen.view
        of = f"   {view.part_requests:,} requests" if view and screen.prefix != "/" else ""
        return Text(f"in {harmless(screen.prefix)}{of}", style="bold")
    return Text("")


def _titles(screen: Screen, columns: int) -> Text:
    name = "SECTION" if screen.sections and not screen.search else "URL"
    ordered = "/S*" if screen.by_rate else "/S"
    requests = "REQUESTS" if screen.by_rate else "REQUESTS*"
    bar = "" if columns < 60 else " " * (BAR_COLUMNS + 1)
    return Text(f"{'#':>4} {requests:>15} {'SHARE':>6} {ordered:>8} {bar}{name}".ljust(columns), style=TITLES)


def _rows(screen: Screen, columns: int, height: int, glyphs: Glyphs) -> list[Text]:
    rows = screen.rows
    if screen.view and not rows:
        return [Text(""), Text("  nothing here yet" if not screen.search else "  no URL contains that", style="dim")]
    most = max((hits for _, hits in rows), default=0)
    total = screen.view.part_requests if screen.view else 0
    found = []
    for place in range(screen.first, min(screen.first + height, len(rows))):
        name, hits = rows[place]
        rate = screen.row_rates.get(name)
        line = Text(f"{place + 1:>4,} {hits:>15,} {100 * hits / max(total, 1):>5.1f}% ")
        line.append(f"{'' if rate is None else _rate(rate):>8} ", style="green" if rate else "dim")
        if columns >= 60:
            line.append(bar(hits / most if most else 0, glyphs.eighths).ljust(BAR_COLUMNS) + " ", style="cyan")
        line.append(harmless(name))
        if place == screen.chosen:
            line = Text(line.plain + " " * max(0, columns - line.cell_len), style=CHOSEN)
        found.append(line)
    return found


def _foot(screen: Screen) -> Text:
    foot = Text()
    for key, what in SECTION_KEYS if screen.sections and not screen.search else KEYS:
        foot.append(f" {key} ", style="bold")
        foot.append(f"{what} ", style=FOOT)
    return foot


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.1f}"


def sparkline(values: Sequence[float], levels: str) -> str:
    """Return one character a value, the highest for the most."""
    most = max(values, default=0.0) or 1.0
    return "".join(levels[min(len(levels) - 1, int(len(levels) * value / most))] for value in values)


def bar(share: float, eighths: str) -> str:
    """Return a bar of up to `BAR_COLUMNS` characters; something is never nothing."""
    parts = len(eighths)
    filled = max(1 if share > 0 else 0, round(share * BAR_COLUMNS * parts))
    whole, rest = divmod(filled, parts)
    return eighths[-1] * whole + (eighths[rest - 1] if rest else "")


def harmless(name: str) -> str:
    """Return a name without anything that a terminal could take for an order."""
    return "".join(each if each.isprintable() else "?" for each in name)
