"""Lines added up: hits by hour and URL, and what was kept out and why.

Equal work is collapsed early: a chunk's lines become tuples at C speed, equal tuples are counted,
and only distinct ones are looked at, each distinct target once for a whole run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from hitledger.ingest.lines import Format
from hitledger.ingest.targets import Names, NotCountedError
from hitledger.ingest.times import Minutes

MOST_ENTRIES = 1_000_000
"""Distinct pairs of hour and URL that are added up together: what that may take of memory, about 200 bytes each."""
MOST_EXAMPLES = 3
EXAMPLE_BYTES = 200
LINE_FEED = 10
BLANK = "blank"
NO_TIME = "no time that can be read"


@dataclass
class Account:
    """What became of lines: how many there were, counted, skipped and bad, by reason, and when the first and last were.

    `first` and `last` are minutes since 1970.
    """

    lines: int = 0
    counted: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[str, str]] = field(default_factory=list)
    first: int | None = None
    last: int | None = None
    urls: set[int] | None = field(default_factory=set)
    """A number for each distinct URL or line that was counted; None where nobody asks."""

    def add(self, other: Account) -> None:
        """Add another account to this one."""
        self.lines += other.lines
        self.counted += other.counted
        self.skipped += other.skipped
        self.bad += other.bad
        self.see_names(other.urls)
        self.examples = (self.examples + other.examples)[:MOST_EXAMPLES]
        for minute in (other.first, other.last):
            if minute is not None:
                self.see(minute)

    def see_names(self, names: Iterable[int] | None) -> None:
        """Take the numbers of URLs and lines into the account."""
        if self.urls is not None:
            self.urls = self.urls.union(names) if names is not None else None

    def see(self, minute: int) -> None:
        """Take a minute into the span."""
        self.first = minute if self.first is None else min(self.first, minute)
        self.last = minute if self.last is None else max(self.last, minute)

    def keep_out(self, error: NotCountedError, line: bytes, count: int) -> None:
        """Note lines that are not counted."""
        if not error.bad:
            self.skipped[error.reason] += count
            return
        self.bad[error.reason] += count
        if len(self.examples) < MOST_EXAMPLES:
            shown = line[:EXAMPLE_BYTES].rstrip(b"\r\n").decode("ascii", "backslashreplace")
            self.examples.append((error.reason, "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in shown)))


class Tally:
    """The hits of a range of lines. Hours before `whole_days_before` are counted in their day's first hour."""

    def __init__(self, form: Format, names: Names, minutes: Minutes, whole_days_before: int = 0) -> None:
        self._form = form
        self._names = names
        self._minutes = minutes
        self._whole_days_before = whole_days_before
        self._targets: dict[int, Counter[bytes]] = {}
        self._hits: dict[int, dict[str, int]] = {}
        self.account = Account()

    @property
    def entries(self) -> int:
        """Distinct pairs of hour and URL, or somewhat more."""
        return sum(map(len, self._hits.values())) + sum(map(len, self._targets.values()))

    def add(self, lines: bytes) -> None:
        """Add whole lines up."""
        first = self._form.first_time(lines)
        hour = self._whole_hour(*first) if first else None
        if first and hour is not None:
            lines = self._add_hour(lines, first, hour)
        if lines:
            self._add_others(lines)

    def hits(self) -> dict[int, dict[str, int]]:
        """Return hits by URL and line, by hour, of all that was added."""
        while self._targets:
            hour, counted = self._targets.popitem()
            for target, count in counted.items():
                try:
                    self._count(hour, self._names.name_of(target, b""), count)
                except NotCountedError as error:
                    self.account.keep_out(error, target, count)
        return self._hits

    def _whole_hour(self, time: bytes, zone: bytes) -> int | None:
        """Return the hour that a time's text names, in hours since 1970; None where it is not one of UTC's."""
        try:
            first, last = (self._minutes.minute_of(time[:-2] + minute, zone) for minute in (b"00", b"59"))
        except ValueError:
            return None
        return first // 60 if first // 60 == last // 60 else None

    def _add_hour(self, lines: bytes, first: tuple[bytes, bytes], hour: int) -> bytes:
        """Add the lines that are in an hour and in the expected shape, and return the others."""
        words = self._form.within_hour(lines, *first)
        others = [word for word in words if word[-1] == LINE_FEED]
        counted = self._targets.setdefault(self._booked_in(hour), Counter())
        counted.update(words)
        for line in others:
            counted.pop(line, None)
        self.account.lines += len(words) - len(others)
        last = self._form.first_time(lines[lines.rfind(b"\n", 0, -1) + 1 :])
        for time in (first, last or first):
            with suppress(ValueError):
                self.account.see(self._minutes.minute_of(*time))
        return b"".join(others)

    def _add_others(self, lines: bytes) -> None:
        account, is_path = self.account, self._form.is_path
        for words, count in self._form.counted(lines).items():
            time, zone, target, status, odd = words
            account.lines += count
            try:
                if odd:
                    self._add_odd(odd, count)
                else:
                    self._count_at(time, zone, self._names.name_of(target, status, is_path=is_path), count)
            except NotCountedError as error:
                account.keep_out(error, odd or b" ".join(words), count)

    def _add_odd(self, line: bytes, count: int) -> None:
        line = line.rstrip(b"\r\n").lstrip(b"\0")  # a file that was truncated under its writer begins with zeros
        if not line:
            raise NotCountedError(BLANK, bad=False)
        found = self._form.read(line)
        name = self._names.name_of(found.target, found.status, is_path=found.is_path)
        self._count_at(found.time, found.zone, name, count)

    def _count_at(self, time: bytes, zone: bytes, name: str, count: int) -> None:
        try:
            minute = self._minutes.minute_of(time, zone)
        except ValueError:
            raise NotCountedError(NO_TIME) from None
        self.account.see(minute)
        self._count(self._booked_in(minute // 60), name, count)

    def _count(self, hour: int, name: str, count: int) -> None:
        table = self._hits.setdefault(hour, {})
        table[name] = table.get(name, 0) + count
        self.account.counted += count

    def _booked_in(self, hour: int) -> int:
        return hour if hour >= self._whole_days_before else hour - hour % 24
