r"""The journal: the append-only files on a host in which every process notes its hits.

A process has one open journal file and adds one record a hit, with one `write(2)`. The file
is made whole under another name, locked, synced and only then renamed to

    <born>-<id>.journal     born: 16 hex digits, microseconds since 1970; id: 128 random bits

so that a journal file without its writer's lock is one whose writer is gone or has moved on.

    offset 0    256 bytes of header, ASCII, padded with spaces:
                "hitledger-journal <version> <born>-<id> <crc>" up to offset 192,
                then the count of hits that could not be journalled: 12 digits and their CRC-32
    offset 256  records, each:  \n <crc: 8 hex> <seconds since 1970: 8 hex> <kind: 1> <path>
                crc is the CRC-32 of <born>-<id> and of all that follows it in the record, so that
                no record of another file, in a block that the disk gave back, is taken for one

A file of version 2 may hold extended records, too, with a kind of their own; a file without
them is of version 1, so that a program that does not know them leaves alone what it cannot read:

    <kind: x> <kind of the hits: 1> <hits, in decimal> \0 <route> \0 <path>

A path that holds a line feed is written percent-encoded under a kind of its own, so a line
feed always begins a record: a torn or flipped record spoils itself and none after it. Two
hits on one path within a second are the same bytes, which lets posting add them up before it
looks at any of them.

Guarantee: when `JournalWriter.append` returns True, the record is whole in the file, in the
kernel's hands: no kill of any process loses it. What a power cut may lose is the setting
`journal_sync`. Leans on: `O_APPEND` and `flock` of a local file system.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote_from_bytes
from zlib import crc32

from hitledger.errors import DamagedHeaderError, JournalError
from hitledger.forks import tell_of_forks
from hitledger.host import Host

log = logging.getLogger("hitledger.journal")

HEADER_BYTES = 256
TALLY_OFFSET = 192
TALLY_BYTES = 20
_TALLY_DIGITS = 12
SUFFIX = ".journal"
NEW_SUFFIX = ".new"
"""Files that are being made; whoever was killed meanwhile left one behind."""

PATH = b"h"
"""Kind of a record that holds a path as it came."""
ENCODED = b"e"
"""Kind of a record that holds a path percent-encoded, because it has a line feed."""
UNMATCHED_KIND = b"u"
OVERSIZED_KIND = b"o"
EXTENDED = b"x"
"""Kind of a record that stands for many hits on one path, or knows their route."""
PLAIN_VERSION, EXTENDED_VERSION = 1, 2
MOST_HITS = 10**9
"""Most hits of one record."""
MOST_ROUTE_BYTES = 1024
RECORD_HEAD_BYTES = 17
"""Bytes of a record between its line feed and its path: crc, seconds, kind."""

MOST_RECORD_BYTES = 2**18
"""No record is longer: the longest path that settings allow, with every byte encoded."""

MOST_FILE_SECONDS = 86_400
"""A writer moves on to its next file at least this often, so that no live file is old."""
RETRY_SECONDS = 0.1
"""After a failure, how long hits are tallied as lost before the next file is tried."""

JOURNAL_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{32}")

_HEADER = re.compile(rb"hitledger-journal (\d+) ([0-9a-f]{16}-[0-9a-f]{32}) ([0-9a-f]{8}) *")


@dataclass(frozen=True)
class JournalHeader:
    """The head of a journal file: its name in the watermarks, and hits lost beside it."""

    name: str
    lost: int


class JournalWriter:
    """Append hits to this process's own journal file; safe among threads and after a fork.

    The file is opened at the first hit. `append` never raises: what could not be written is
    tallied in `lost` and in the header of the last good file, whose block is there already
    even on a full disk.
    """

    def __init__(
        self,
        directory: Path,
        *,
        sync: str = "interval",
        file_bytes: int = 64 * 2**20,
        cap_bytes: int = 8 * 2**30,
        host: Host | None = None,
        on_open: Callable[[], None] = lambda: None,
    ) -> None:
        self._directory = directory
        self._each = sync == "each"
        self._interval = sync == "interval"
        self._file_bytes = file_bytes
        self._cap_bytes = cap_bytes
        self._host = host or Host()
        self._write, self._now = self._host.write, self._host.now
        self._on_open = on_open
        self._version = PLAIN_VERSION
        self._reset()
        tell_of_forks(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._fd = -1
        self._path = self._directory
        self._size = self._salt = 0
        self._tally_fd = -1
        self._file_lost = self._untold = 0
        self._dirty = False
        self._opened = 0.0
        self._retired: list[int] = []
        self._retry_at = 0.0
        self._failing = False
        self._over_cap = False
        self.received = 0
        """Hits that this process was given."""
        self.lost = 0
        """Hits that this process could not journal."""

    def append(self, kind: bytes, path: bytes, hits: int = 1, route: bytes = b"") -> bool:
        """Note hits on a path, as one; return False where they could not be journalled and were tallied as lost.

        `hits` are 1 to `MOST_HITS`; a route is as `paths.route_of` makes it, empty where none is known.
        """
        if b"\n" in path:
            kind, path = ENCODED, quote_from_bytes(path, safe="/").encode()
        if route or hits != 1:
            kind, path = EXTENDED, self._extended(kind, path, hits, route)
        # The mask keeps records whole where a clock stands outside 1970 to 2106.
        body = b"%08x%b%b" % (int(self._now()) & 0xFFFFFFFF, kind, path)
        with self._lock:
            self.received += hits
            record = b"\n%08x%b" % (crc32(body, self._salt), body)
            try:
                if self._write(self._fd, record) == len(record):
                    self._size += len(record)
                    self._dirty = True
                    if self._size < self._file_bytes and not self._each:
                        return True
                    return self._after_write()
                self._seal("a write was cut short")
            except OSError as error:
                self._seal(str(error))
            return self._append_to_new_file(body, hits)

    def _extended(self, kind: bytes, path: bytes, hits: int, route: bytes) -> bytes:
        """Return what an extended record has behind its kind, and see to it that the file may hold it."""
        assert 1 <= hits <= MOST_HITS
        assert len(route) <= MOST_ROUTE_BYTES
        with self._lock:
            if self._version < EXTENDED_VERSION:
                self._version = EXTENDED_VERSION
                self._end_file()
        return b"%b%d\0%b\0%b" % (kind, hits, route, path)

    @property
    def writable(self) -> bool:
        """False while hits are being lost: what `on_journal_failure=refuse` asks before a request."""
        return self._fd >= 0 or (not self._over_cap and self._host.monotonic() >= self._retry_at)

    def maintain(self) -> None:
        """Sync what is due and hold the journal's cap; called every 100 ms from the background."""
        with self._lock:
            self._tell_in_some_file()
            self._leave_if_old_or_unnamed()
            # First what may fail: without a descriptor to spare, all of it waits for the next time.
            current = self._host.dup(self._fd) if self._fd >= 0 and self._dirty and self._interval else -1
            retired, self._retired = self._retired, []
            self._dirty = False
        for fd in retired:
            self._sync_and_close(fd, sync=self._interval)
        if current >= 0 and not self._sync_and_close(current, sync=True):
            with self._lock:
                self._seal("a sync failed")
        self._hold_cap()

    def close(self) -> None:
        """Sync and leave the current file; a later hit opens a new one."""
        with self._lock:
            self._retry_at = 0.0  # there is no later
            self._tell_in_some_file()
            self._move_on()
        self.maintain()

    def _after_write(self) -> bool:
        if self._each:
            try:
                self._host.fdatasync(self._fd)
                self._dirty = False
            except OSError as error:
                # The record is in the file and will be posted; only its disk is in doubt.
                self._seal(str(error))
        if self._size >= self._file_bytes:
            self._end_file()
        return True

    def _seal(self, reason: str) -> None:
        if self._fd >= 0:
            log.error("journal file sealed: %s", reason)
            self._end_file()

    def _end_file(self) -> None:
        """Stop appending to the current file; it keeps the tally until the next one is open."""
        if self._fd >= 0:
            self._retired.append(self._fd)
            self._fd = -1

    def _move_on(self) -> None:
        """Let the current file go: the background syncs and closes it, the next hit opens another."""
        self._retired += [fd for fd in (self._fd, self._tally_fd) if fd >= 0]
        self._fd = self._tally_fd = -1

    def _leave_if_old_or_unnamed(self) -> None:
        if self._tally_fd < 0:
            return
        if not self._host.is_named(self._tally_fd, self._path):
            log.error("the journal file %s was deleted or set aside while in use; going on in another", self._path.name)
            self._move_on()
        elif self._host.monotonic() - self._opened > MOST_FILE_SECONDS:
            self._move_on()

    def _append_to_new_file(self, body: bytes, hits: int) -> bool:
        if self._host.monotonic() >= self._retry_at and not self._over_cap:
            try:
                self._open()
                record = b"\n%08x%b" % (crc32(body, self._salt), body)
                if self._write(self._fd, record) == len(record):
                    if self._failing:
                        log.warning("the journal can be written again; %d hits were lost", self.lost)
                    self._failing = False
                    self._size += len(record)
                    self._dirty = True
                    return self._after_write()
                self._seal("a write was cut short")
            except OSError as error:
                self._seal(str(error))
                if not self._failing:
                    log.error("hits are being lost: the journal cannot be written: %s", error)  # noqa: TRY400
            self._failing = True
            self._retry_at = self._host.monotonic() + RETRY_SECONDS
        self.lost += hits
        self._untold += hits
        self._tell()
        return False

    def _tell_in_some_file(self) -> None:
        if self._untold and self._tally_fd < 0 and self.writable:
            with suppress(OSError):
                self._open()
        self._tell()

    def _tell(self) -> None:
        """Write down the losses that no file's header tells yet, each in one header only."""
        if self._untold and self._tally_fd >= 0:
            with suppress(OSError):
                told = self._file_lost + self._untold
                if self._host.pwrite(self._tally_fd, make_tally(told), TALLY_OFFSET) == TALLY_BYTES:
                    self._file_lost, self._untold = told, 0

    def _open(self) -> None:
        host = self._host
        host.make_directory(self._directory)
        name = f"{int(max(0.0, self._now()) * 1_000_000):016x}-{host.random_hex(16)}"
        new = self._directory / (name + NEW_SUFFIX)
        path = self._directory / (name + SUFFIX)
        fds: list[int] = []
        try:
            # Two descriptors: on Linux, pwrite(2) to an O_APPEND file appends, whatever its offset.
            flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
            fds.append(host.open(new, flags | os.O_CREAT | os.O_EXCL, 0o600))
            header = make_header(name, version=self._version)
            if host.write(fds[0], header) != len(header):
                raise OSError(errno.ENOSPC, "no room for a journal file's header")
            fds.append(host.open(new, flags | os.O_APPEND))
            host.lock(fds[0])
            if self._each or self._interval:
                host.fsync(fds[1])
            host.rename(new, path)
            if self._each or self._interval:
                host.sync_directory(self._directory)
        except OSError:
            self._discard(fds, new, path)
            raise
        if self._tally_fd >= 0:
            self._retired.append(self._tally_fd)
        self._path, self._opened = path, host.monotonic()
        self._tally_fd, self._fd = fds
        self._size, self._file_lost, self._salt = HEADER_BYTES, 0, salt_of(name)
        self._tell()
        self._on_open()

    def _discard(self, fds: list[int], *paths: Path) -> None:
        for fd in fds:
            with suppress(OSError):
                self._host.close(fd)
        for path in paths:
            with suppress(OSError):
                self._host.unlink(path)

    def _sync_and_close(self, fd: int, *, sync: bool) -> bool:
        try:
            if sync:
                self._host.fdatasync(fd)
        except OSError as error:
            log.error("a journal file could not be synced: %s", error)  # noqa: TRY400 - a state, not a crash
            return False
        finally:
            with suppress(OSError):
                self._host.close(fd)
        return True

    def _hold_cap(self) -> None:
        total = sum(size for _, size in self._host.files(self._directory, SUFFIX))
        over = total >= self._cap_bytes
        if over and not self._over_cap:
            log.error("hits are being lost: the journal has reached its cap of %d bytes", self._cap_bytes)
        elif self._over_cap and not over:
            log.warning("the journal is below its cap again; %d hits were lost", self.lost)
        with self._lock:
            if over and self._tally_fd >= 0 and self._size > HEADER_BYTES:
                self._seal("the journal's cap is reached")
                # A file without hits keeps the tally, so that this one can be posted and deleted.
                with suppress(OSError):
                    self._open()
                    self._end_file()
            self._over_cap = over

    def after_fork_in_child(self) -> None:
        """Let go of what is the parent's, and begin anew."""
        for fd in {self._fd, self._tally_fd, *self._retired} - {-1}:
            with suppress(OSError):
                self._host.close(fd)  # the parent's lock stays: it belongs to the open file, not to us
        self._reset()


def make_header(name: str, lost: int = 0, version: int = PLAIN_VERSION) -> bytes:
    """Return the 256 bytes that a journal file begins with."""
    words = f"hitledger-journal {version} {name} ".encode()
    head = words + b"%08x" % crc32(words)
    return (head.ljust(TALLY_OFFSET) + make_tally(lost)).ljust(HEADER_BYTES)


def make_tally(lost: int) -> bytes:
    """Return a count of lost hits as it stands in a header: its digits and their checksum."""
    digits = b"%0*d" % (_TALLY_DIGITS, lost)
    return digits + b"%08x" % crc32(digits)


def read_tally(text: bytes) -> int:
    """Return a count of lost hits; 0 where a flipped byte would make it another."""
    digits = text[:_TALLY_DIGITS]
    return int(digits) if digits.isdigit() and text == make_tally(int(digits)) else 0


def read_header(host: Host, fd: int) -> JournalHeader:
    """Read a journal file's header.

    Raises:
        DamagedHeaderError: it is damaged.
        JournalError: it is of a version that this program does not know.
    """
    return _parse_header(host.pread(fd, HEADER_BYTES, 0))


@lru_cache(maxsize=1024)
def _parse_header(data: bytes) -> JournalHeader:
    # Those of held files are read ten times a second, and stay what they are.
    match = _HEADER.fullmatch(data[:TALLY_OFFSET])
    if len(data) < HEADER_BYTES or not match:
        raise DamagedHeaderError("A journal file has a damaged header.")
    version, name, crc = match.groups()
    if crc32(data[: match.start(3)]) != int(crc, 16):
        raise DamagedHeaderError("A journal file has a damaged header.")
    if int(version) not in (PLAIN_VERSION, EXTENDED_VERSION):
        raise JournalError(f"A journal file has format {version.decode()}, which this version does not know.")
    return JournalHeader(name.decode(), read_tally(data[TALLY_OFFSET : TALLY_OFFSET + TALLY_BYTES]))


def salt_of(name: str) -> int:
    """Return the checksum that every record's checksum in a file of that name goes on from."""
    return crc32(name.encode())


def is_good(record: bytes, salt: int) -> bool:
    """Tell whether a record, without its line feed, is whole and of the file with that salt."""
    return len(record) >= RECORD_HEAD_BYTES and record[:8] == b"%08x" % crc32(record[8:], salt)


def whole_part(piece: bytes, salt: int) -> bytes:
    """Return the record that a damaged piece begins with; nothing where it begins with none.

    A power cut may leave a file longer than its data. What follows the last record that was
    synced is then zeros, or what stood there before, and no line feed ends that record.
    """
    try:
        wanted = int(piece[:8], 16)
    except ValueError:
        return b""
    if piece[:8] != b"%08x" % wanted:
        return b""
    crc = crc32(piece[8:RECORD_HEAD_BYTES], salt)
    for end in range(RECORD_HEAD_BYTES, min(len(piece), MOST_RECORD_BYTES)):
        if crc == wanted:
            return piece[:end]
        crc = crc32(piece[end : end + 1], crc)
    return b""
