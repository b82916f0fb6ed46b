"""What every format gives of a log's lines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Protocol

NOT_IN_FORMAT = "not in the format"


@dataclass(frozen=True)
class Request:
    """One line's request: time and zone as `times` cuts them, target, status; `is_path` as `Names.name_of` has it."""

    time: bytes
    zone: bytes
    target: bytes
    status: bytes
    is_path: bool = False


class Format(Protocol):
    """A way to read lines."""

    name: str
    is_path: bool
    """True where targets are paths that are decoded already."""

    def first_time(self, lines: bytes) -> tuple[bytes, bytes] | None:
        """Return time and zone of the first of these lines; None where `within_hour` cannot help."""

    def within_hour(self, lines: bytes, time: bytes, zone: bytes) -> list[bytes]:
        """Return the targets of the lines of one hour, and every other line whole, with its line feed."""

    def counted(self, lines: bytes) -> Counter[tuple[bytes, ...]]:
        """Return the tuples (time, zone, target, status, odd line) of whole lines, and how often each is there.

        A line that needs a closer look is alone in its tuple: the last word is the line, the others are empty.
        """

    def read(self, line: bytes) -> Request:
        """Read one line, without its line feed, with patience. Raises NotCountedError."""
