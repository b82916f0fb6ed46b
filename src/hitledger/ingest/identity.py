"""Which log a file is: by its content, never by its name.

A log is known by its first line, and by the CRC-32 of longer and longer beginnings of it:

    log-<id>            its watermark, as that of a journal file; id: 32 hex digits, of the first
                        line, and of a number where logs share it
    log-<id>.<bytes>    a *rung*: a watermark without hits that never moves. It says what CRC-32
                        that many first bytes of the log have

So a file that has grown, was renamed or packed is the log that it was; a file that begins as a
log does and goes on otherwise is another one; and a shorter copy of a log is known by the rungs
up to its own length. The names sort behind those of journal files and therefore lie above
every floor: the ledger never forgets them, and a log that comes again after years is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from hitledger.entries import Batch, Outcome, Watermark
from hitledger.errors import LedgerError
from hitledger.ingest.reading import RUNGS, LogStream

CANDIDATES = 8
"""Logs with one first line that are asked for at a time."""


class IngestLedger(Protocol):
    """What ingesting asks of the ledger; `LedgerStore` is it."""

    @property
    def keeps_sections(self) -> bool:
        """Whether it keeps sections, as far as is known."""

    def watermarks(self, journals: Sequence[str]) -> dict[str, list[Watermark | None]]:
        """Return watermarks, one a shard."""

    def post(self, batches: Sequence[Batch]) -> list[Outcome]:
        """Book batches, those of a shard in their order."""


@dataclass
class KnownLog:
    """A log's name and what the ledger has of it; `is_copy` where it has more than the file."""

    name: str
    marks: list[Watermark | None]
    is_copy: bool = False


def name_of(first_line: bytes, source: str, number: int) -> str:
    """Return the name of the log with that first line; `source` sets equal logs of several hosts apart."""
    words = b"%b\0%d\0%b" % (source.encode(), number, first_line)
    return f"log-{blake2b(words, digest_size=16).hexdigest()}"


def rung_name(name: str, rung: int) -> str:
    """Return the name that a rung's checksum stands under."""
    return f"{name}.{rung}"


def identify(stream: LogStream, store: IngestLedger, source: str = "") -> KnownLog | None:
    """Return which log a stream from its beginning is; None where it has no whole line yet.

    The stream is read as far as it must be to tell. Raises LedgerError.
    """
    first_line = stream.first_line()
    if not first_line:
        return None
    number = 0
    while True:
        names = [name_of(first_line, source, each) for each in range(number, number + CANDIDATES)]
        found = store.watermarks(names)
        for name in names:
            rungs = _rungs_of(store, name)
            known = [mark for mark in found[name] if mark]
            if not known and not rungs:
                return KnownLog(name, found[name])
            fits = _fits(stream, rungs, known)
            if fits is not None:
                return KnownLog(name, found[name], is_copy=fits == "copy")
        number += CANDIDATES


def _rungs_of(store: IngestLedger, name: str) -> list[Watermark]:
    by_name = store.watermarks([rung_name(name, rung) for rung in RUNGS])
    return [marks[0] for marks in by_name.values() if marks[0]]


def _fits(stream: LogStream, rungs: Sequence[Watermark], marks: Sequence[Watermark]) -> str | None:
    """Tell whether a stream is a log, or a shorter copy of it; None where it is another."""
    for mark in sorted({(each.offset, each.crc) for each in [*rungs, *marks]}):
        offset, crc = mark
        if offset < stream.offset:
            stream.seek(0)
        found = stream.crc_at(offset)
        if found is None:
            return "copy" if any(each.offset >= offset for each in marks) else "log"
        if found != crc:
            return None
    return "log"


def raise_rungs(stream: LogStream, store: IngestLedger, name: str, passed: int) -> bool:
    """Tell the ledger the rungs that a stream has behind a byte; False where they are another log's.

    Raises:
        LedgerError: the ledger cannot take them now.
    """
    batches = [
        Batch(0, rung_name(name, rung), None, Watermark(rung, 0, crc), {})
        for rung, crc in stream.rungs.items()
        if rung > passed
    ]
    outcomes = store.post(batches) if batches else []
    for outcome in outcomes:
        if outcome.error:
            raise outcome.error
        if outcome.word == "stranger":
            raise LedgerError("The ledger is another one than at the beginning.", "Begin again.")
    return all(outcome.done for outcome in outcomes)
