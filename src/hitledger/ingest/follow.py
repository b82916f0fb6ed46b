"""Following logs that are being written, through every way of rotating them.

Renamed: the file that is open is read on, for servers go on writing to it for a while, and what
stands under the name now is opened beside it. Copied and truncated: the beginning is another
one, or the file is shorter than what was read of it; what was not read yet is then in the copy,
which is found beside it by its content. Nothing rests on the moment at which anybody looked:
each log's watermark is in the ledger, and a log that was missed can be given again.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

from hitledger.errors import HitledgerError, IngestError, LedgerError
from hitledger.ingest.booking import Booking, MovedError
from hitledger.ingest.reading import LogStream, Source
from hitledger.ingest.run import FileReport, Run

log = logging.getLogger("hitledger.ingest")

PAUSE_SECONDS = 0.25
TRY_AGAIN_SECONDS = 1.0
KEPT_OPEN_SECONDS = 900.0
"""How long a renamed file is read on after its last line: workers that finish their requests write to it still."""
MOST_KEPT_OPEN = 8
HEAD_BYTES = 256
"""First bytes by which a file that was truncated and written anew is noticed."""


class OpenLog:
    """One file that is open, whatever its name is by now."""

    def __init__(self, run: Run, path: Path) -> None:
        self._run = run
        self.report = FileReport(str(path))
        self.report.account.urls = None  # years of them would not fit
        self._source = Source(path)
        self.inode = (self._source.status.st_dev, self._source.status.st_ino)
        self._stream = LogStream(self._source)
        self._booking: Booking | None = None
        self._head = b""
        self._tried_bytes = -1
        self.last_line_at = time.monotonic()

    @property
    def was_truncated(self) -> bool:
        """True where the file's beginning is not the one that was read, or less is there than was."""
        if self._source.is_packed:
            return False
        size = os.fstat(self._source.fileno()).st_size
        return size < self._stream.offset or os.pread(self._source.fileno(), len(self._head), 0) != self._head

    def advance(self) -> bool:
        """Book what is new; tell whether there was anything. Raises LedgerError and IngestError."""
        booking = self._booking or self._open()
        if not booking:
            return False
        before = self._stream.offset
        self._booking = None  # whatever goes wrong, the watermark is looked at again
        try:
            booking.run()
        except MovedError:
            return True
        self._booking = booking
        if self._stream.offset == before:
            return False
        self.last_line_at = time.monotonic()
        return True

    def _open(self) -> Booking | None:
        size = os.fstat(self._source.fileno()).st_size
        if size == self._tried_bytes:
            return None
        if self._stream.offset:
            self._stream.seek(0)
        self._head = os.pread(self._source.fileno(), HEAD_BYTES, 0)
        self._head = self._head[: self._head.rfind(b"\n") + 1] or self._head
        booking = self._run.open(self._stream, self.report)
        if booking:
            booking.is_unchanged = lambda: not self.was_truncated
        else:
            self._tried_bytes = size
            self._stream = LogStream(self._source)
            self._source.restart()
        return booking

    def close(self) -> None:
        """Close the file."""
        self._source.close()


class Tail:
    """What stands under one name, and what stood there before and may still be written to."""

    def __init__(self, run: Run, path: Path, others: frozenset[Path]) -> None:
        self.path = path
        self._run = run
        self._others = others
        self._current: OpenLog | None = None
        self._renamed: list[OpenLog] = []
        self._told = ""
        self.reports: list[FileReport] = []

    def poll(self) -> bool:
        """Look once; tell whether anything was booked. Raises LedgerError."""
        self._look_at_name()
        busy = False
        for each in [*self._renamed, *([self._current] if self._current else [])]:
            try:
                busy |= each.advance()
            except IngestError as error:
                self._tell(error)
        self._close_idle()
        return busy

    def finish_rotated(self) -> None:
        """Book the rest of logs beside this one that the ledger has begun. Raises LedgerError."""
        for path in _siblings(self.path):
            if path not in self._others:
                with suppress(IngestError, OSError), closing(Source(path)) as source:
                    self._finish(source)

    def close(self) -> None:
        """Close every file."""
        for each in [*self._renamed, *([self._current] if self._current else [])]:
            self._drop(each)

    def _finish(self, source: Source) -> None:
        report = FileReport(source.name)
        report.account.urls = None
        stream = LogStream(source)
        while booking := self._run.open(stream, report, known_only=True):
            try:
                booking.run()
                booking.close()
                break
            except MovedError:
                stream.seek(0)
        if report.account.lines:
            self.reports.append(report)

    def _look_at_name(self) -> None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            status = None
        current = self._current
        if current and (status is None or current.inode != (status.st_dev, status.st_ino)):
            self._renamed.append(current)
            self._current = None
        elif current and current.was_truncated:
            self._drop(current)
            self._current = None
            self.finish_rotated()
        if self._current is None and status is not None:
            with suppress(IngestError):  # gone again, or not to be read yet
                self._current = OpenLog(self._run, self.path)

    def _close_idle(self) -> None:
        until = time.monotonic() - KEPT_OPEN_SECONDS
        kept = [each for each in self._renamed[-MOST_KEPT_OPEN:] if each.last_line_at > until]
        for each in self._renamed:
            if each not in kept:
                self._drop(each)
        self._renamed = kept

    def _drop(self, each: OpenLog) -> None:
        if each.report.account.lines:
            self.reports.append(each.report)
        each.close()

    def _tell(self, error: HitledgerError) -> None:
        if str(error) != self._told:
            self._told = str(error)
            log.warning("%s", error)


def follow(run: Run, paths: Sequence[Path], reports: list[FileReport], is_over: Callable[[], bool]) -> None:
    """Book what is written to logs, until it is over; a ledger that is away is waited for.

    `reports` gets what became of each file.
    """
    absolute = [path.absolute() for path in paths]
    tails = [Tail(run, path, frozenset(absolute)) for path in absolute]
    to_finish = list(tails)
    away = False
    try:
        while not is_over():
            try:
                while to_finish:
                    to_finish[-1].finish_rotated()
                    to_finish.pop()
                busy = [tail.poll() for tail in tails]
                if away:
                    log.warning("the ledger is back; nothing was lost meanwhile")
                away = False
                if not any(busy):
                    time.sleep(PAUSE_SECONDS)
            except LedgerError as error:
                if not away:
                    log.warning("waiting: %s", error)
                away = True
                time.sleep(TRY_AGAIN_SECONDS)
    finally:
        for tail in tails:
            tail.close()
            reports += tail.reports


def _siblings(path: Path) -> list[Path]:
    """Return the files whose names begin as a log's does, the latest written first."""
    stem = path.name.partition(".")[0]
    found = []
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.name.startswith(stem) and entry.is_file():
                    found.append((entry.stat().st_mtime, Path(entry.path)))
    return [each for _, each in sorted(found, reverse=True)]
