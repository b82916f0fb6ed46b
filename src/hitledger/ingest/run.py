"""One run of `hitledger ingest`: each file recognised, identified, and booked or only added up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from pathlib import Path

from hitledger.errors import IngestError
from hitledger.ingest.booking import Booking, MovedError, Reading
from hitledger.ingest.formats import built_in
from hitledger.ingest.identity import IngestLedger, KnownLog, identify
from hitledger.ingest.lines import NOT_IN_FORMAT, Format
from hitledger.ingest.reading import LogStream, Source
from hitledger.ingest.tally import MOST_ENTRIES, Account
from hitledger.ingest.targets import Names, NotCountedError
from hitledger.ingest.times import Minutes
from hitledger.settings import Settings

SAMPLE_BYTES = 2**16
SAMPLE_LINES = 200


@dataclass
class FileReport:
    """What became of one file: its format, its name in the ledger, and the account of what was read now.

    `known_bytes` were counted before, `unfinished_bytes` are left for the next run, and
    `trouble` says why it was not read to its end, if it was not.
    """

    file: str
    format: str = ""
    log: str = ""
    known_bytes: int = 0
    unfinished_bytes: int = 0
    is_copy: bool = False
    is_empty: bool = False
    trouble: str = ""
    account: Account = field(default_factory=Account)


@dataclass(frozen=True)
class Options:
    """How a run reads: the format, unless each file shows its own; a name for the logs' origin; a zone."""

    form: Format | None = None
    source: str = ""
    zone: tzinfo = UTC


class Run:
    """Ingests files into one ledger, or, without one, only adds them up."""

    def __init__(self, settings: Settings, store: IngestLedger | None, options: Options) -> None:
        self._settings = settings
        self._store = store
        self._options = options
        self._names = Names(settings)
        self._minutes = Minutes(options.zone)
        self.on_progress: Callable[[Source, float], None] = lambda _source, _booked: None

    def ingest(self, path: Path | None) -> FileReport:
        """Ingest a file, or standard input, to its end; trouble with the file itself is in the report.

        Raises:
            LedgerError: the ledger cannot be reached or refuses.
        """
        report = FileReport(str(path) if path else "standard input")
        try:
            with closing(Source(path)) as source:
                self._ingest(LogStream(source), report)
        except IngestError as error:
            report.trouble = str(error)
        return report

    def open(self, stream: LogStream, report: FileReport, *, known_only: bool = False) -> Booking | None:
        """Recognise and identify a log from its beginning; None where nothing can be booked of it.

        `known_only` leaves a log alone that the ledger has nothing of. Raises LedgerError and IngestError.
        """
        assert self._store
        reading = self._reading(stream, report)
        log = reading and identify(stream, self._store, self._options.source)
        if not reading or not log:
            report.is_empty = True
            return None
        report.log, report.is_copy = log.name, log.is_copy
        report.known_bytes = max((mark.offset for mark in log.marks if mark), default=0)
        if log.is_copy or (known_only and not any(log.marks)):
            return None
        return self._booking(stream, log, reading, report)

    def _ingest(self, stream: LogStream, report: FileReport) -> None:
        if self._store is None:
            self._only_add_up(stream, report)
            return
        booking = self.open(stream, report)
        while booking:
            try:
                booking.run()
            except MovedError:
                booking = self.reopen(stream, booking, report)
                continue
            except IngestError:
                booking.close()
                raise
            if not stream.waiting:
                booking.close()
                break
        report.unfinished_bytes = len(stream.last_line())
        if stream.source.cut_off:
            raise IngestError(f"{report.file} is cut off.", "What there is of it is counted.")

    def reopen(self, stream: LogStream, booking: Booking, report: FileReport) -> Booking | None:
        """Look again at a log whose watermark has moved. Raises as `open`."""
        if stream.source.can_restart:
            stream.seek(0)
            return self.open(stream, report)
        booking.look_again()
        return booking

    def _booking(self, stream: LogStream, log: KnownLog, reading: Reading, report: FileReport) -> Booking:
        assert self._store
        booking = Booking(stream, self._store, log, reading, report.account)
        booking.on_progress = lambda booked: self.on_progress(stream.source, booked)
        return booking

    def _only_add_up(self, stream: LogStream, report: FileReport) -> None:
        reading = self._reading(stream, report)
        report.is_empty = reading is None
        while reading:
            tally = reading.tally(2**31)
            while tally.entries < MOST_ENTRIES and (lines := stream.lines()):
                tally.add(lines)
                self.on_progress(stream.source, 0)
            if stream.source.is_whole and (line := stream.last_line()):
                tally.add(line + b"\n")
            hits = tally.hits()
            tally.account.see_names(hash(name) for table in hits.values() for name in table)
            report.account.add(tally.account)
            if stream.at_end:
                break
        report.unfinished_bytes = 0 if stream.source.is_whole else len(stream.last_line())
        if stream.source.cut_off:
            raise IngestError(f"{report.file} is cut off.")

    def _reading(self, stream: LogStream, report: FileReport) -> Reading | None:
        """Recognise the format by the first lines; None where there is no whole line. Raises IngestError."""
        if not stream.first_line():
            return None
        lines = [line for line in stream.beginning(SAMPLE_BYTES).split(b"\n")[:SAMPLE_LINES] if line.strip(b"\r\0")]
        given = self._options.form
        scores = {form: sum(_fit(form, line) for line in lines) for form in ([given] if given else built_in())}
        form = max(scores, key=lambda form: scores[form])
        if not scores[form]:
            shown = lines[0][:80].decode("ascii", "backslashreplace") if lines else ""
            what = "none of its first lines is in the format given" if given else "its format is none of the known ones"
            raise IngestError(
                f"{report.file}: {what}; the first line begins with {shown!r}.",
                "Give its log_format with --format, and try with --dry-run.",
            )
        report.format = form.name
        return Reading(self._settings, form, self._names, self._minutes)


def _fit(form: Format, line: bytes) -> int:
    """Return how well a line fits a format: 2 where it can be counted, 1 where at least its parts are found."""
    try:
        form.read(line.rstrip(b"\r").lstrip(b"\0"))
    except NotCountedError as error:
        return 0 if error.reason == NOT_IN_FORMAT else 1
    return 2
