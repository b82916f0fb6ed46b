"""What each setting of HITLEDGER_JOURNAL_SYNC costs a request: one record appended, cold and alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.common import Result, Spread, interleaved, scratch, seconds_of
from hitledger.journal import PATH, JournalWriter

RECORDS = 50
SYNCS = ("none", "interval", "each")


def appending(folder: Path, sync: str) -> Callable[[], float]:
    """Return what appends some records, syncs beside them as the background does, and tells µs a record."""
    writer = JournalWriter(folder / sync, sync=sync)

    def append() -> None:
        for number in range(RECORDS):
            writer.append(PATH, b"/api/product/%d/" % number)

    def timed() -> float:
        seconds = seconds_of(append)
        writer.maintain()
        return seconds / RECORDS * 1e6

    return timed


def run(*, quick: bool) -> Result:
    """Measure."""
    result = Result("Durability: one record appended, by HITLEDGER_JOURNAL_SYNC", ["setting", "µs", "middle half"])
    with scratch() as folder:
        found = interleaved({sync: appending(folder, sync) for sync in SYNCS}, 40 if quick else 400)
    for sync, figures in found.items():
        spread = Spread.of(figures)
        result.rows.append([sync, spread.middle, str(spread)])
    result.notes.append("interval: the sync itself runs beside the requests, every 100 ms, and is not in its figure.")
    return result
