"""Reading a log: a file that is plain, gzipped or compressed by zstd, or standard input; as whole lines.

A `Source` gives bytes, unpacked, and can begin again from the first one. A `LogStream` gives
whole lines of a source and knows at which byte of the unpacked log it is, and the CRC-32 of
everything before. Nothing else of a file matters: neither its name nor how it is packed.
"""

from __future__ import annotations

import io
import os
import select
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

from hitledger.errors import IngestError

CHUNK_BYTES = 2**20
MOST_LINE_BYTES = 64 * 2**20
PACKING = 8
"""How much smaller a log is packed, about: that much less is read at a time."""
PIPE_WAIT_SECONDS = 0.5
"""How long to wait for more of a pipe before what has come is counted."""
SPOOL_BYTES = 16 * 2**20
RUNGS = tuple(256 * 4**step for step in range(20))
"""Bytes of a log's beginning whose CRC-32 the ledger keeps: by them, a shorter copy is known."""

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip", b"\x04\x22\x4d\x18": "lz4"}


class Source:
    """The unpacked bytes of one log."""

    def __init__(self, path: Path | None) -> None:
        """Open a file, or standard input for None. Raises IngestError."""
        self.name = str(path) if path else "standard input"
        self.cut_off = False
        """True once a compressed file turned out to be incomplete."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if path else os.dup(sys.stdin.fileno())
            self.status = os.fstat(fd)
        except (OSError, io.UnsupportedOperation) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise IngestError(f"{self.name} cannot be read: {reason}.") from error
        is_file = stat.S_ISREG(self.status.st_mode)
        self.raw: _Raw = os.fdopen(fd, "rb", buffering=0) if is_file else _Pipe(fd)
        self._packer: Callable[[], Any] | None = None
        self._error: type[Exception] = OSError
        try:
            self._find_packing(self._head())
            self._start()
        except IngestError:
            self.raw.close()
            raise

    def _head(self) -> bytes:
        while (head := self.raw.read(8)) is None:
            pass
        return head

    def _find_packing(self, head: bytes) -> None:
        if head.startswith(GZIP):
            self._packer = partial(zlib.decompressobj, 31)
        elif head.startswith(ZSTD):
            self._packer, self._error = _zstd(self.name)
        for magic, name in _OTHERS.items():
            if head.startswith(magic):
                raise IngestError(f"{self.name} is packed by {name}.", "Unpack it, or pipe it in unpacked.")

    def _start(self) -> None:
        self.raw.seek(0)
        self._data: _Raw | _Unpacked = _Unpacked(self.raw, self._packer) if self._packer else self.raw

    def fileno(self) -> int:
        """Return the file's descriptor."""
        return self.raw.fileno()

    @property
    def can_restart(self) -> bool:
        """False where a pipe's first bytes are gone."""
        return not isinstance(self.raw, _Pipe) or self.raw.keeping

    def restart(self) -> None:
        """Begin again from the first byte. Raises IngestError where that is gone."""
        if not self.can_restart:
            raise IngestError("The ledger has forgotten what was counted of standard input.", "Give all of it again.")
        self._start()

    def keep(self, *, needed: bool) -> None:
        """Say whether `restart` may still be called; a pipe's bytes are kept in a file as long as it may."""
        if isinstance(self.raw, _Pipe):
            self.raw.keeping = needed

    @property
    def is_packed(self) -> bool:
        """True where the file's bytes are not the log's."""
        return self._packer is not None

    @property
    def is_whole(self) -> bool:
        """True where nothing will be added behind the end: whatever is packed, and standard input."""
        return (self._packer is not None or isinstance(self.raw, _Pipe)) and not self.cut_off

    @property
    def read_bytes(self) -> int:
        """How many bytes have been read of the file, packed as it is."""
        return self.raw.tell()

    def read(self, count: int) -> bytes | None:
        """Return up to so many bytes; nothing at the end; None where a pipe has none now.

        Raises:
            IngestError: the file is damaged.
        """
        try:
            return self._data.read(count)
        except EOFError:
            self.cut_off = True
            return b""
        except (OSError, zlib.error, self._error) as error:
            raise IngestError(f"{self.name} is damaged: {error}.", "What comes before is counted.") from error

    def close(self) -> None:
        """Close it."""
        self.raw.close()


class _Unpacked:
    """What gzip or zstd packed, in any number of pieces behind each other."""

    def __init__(self, raw: _Raw, packer: Callable[[], Any]) -> None:
        self._raw = raw
        self._new = packer
        self._packer: Any = None
        self._rest = b""

    def read(self, count: int) -> bytes | None:
        """Return some bytes; nothing at the end; None where a pipe has none now. Raises EOFError: cut off."""
        while True:
            data = self._rest or self._raw.read(count // PACKING)
            if not data:
                if data == b"" and self._packer:
                    raise EOFError
                return data
            self._rest = b""
            if not self._packer:
                data = data.lstrip(b"\0")  # tapes and disks pad
                self._packer = self._new() if data else None
            if self._packer:
                unpacked: bytes = self._packer.decompress(data)
                if self._packer.eof:
                    self._rest, self._packer = self._packer.unused_data, None
                if unpacked:
                    return unpacked


def _zstd(name: str) -> tuple[Callable[[], Any], type[Exception]]:
    """Return what unpacks one piece, and the error that it raises. Raises IngestError where there is none."""
    with suppress(ImportError):
        built_in = import_module("compression.zstd")  # from Python 3.14 on
        return built_in.ZstdDecompressor, built_in.ZstdError
    with suppress(ImportError):
        extra = import_module("zstandard")
        return extra.ZstdDecompressor().decompressobj, extra.ZstdError
    raise IngestError(f"{name} is packed by zstd.", "`pip install hitledger[zstd]` reads it.")


class _Raw(Protocol):
    """A file or a pipe as it is."""

    def read(self, count: int) -> bytes | None:
        """Return up to so many bytes; nothing at the end; None where a pipe has none now."""

    def seek(self, offset: int) -> object:
        """Go to the first byte, the only one that `offset` may name."""

    def tell(self) -> int:
        """Return how many bytes were read."""

    def fileno(self) -> int:
        """Return its descriptor."""

    def close(self) -> None:
        """Close it."""


class _Pipe:
    """A pipe that can begin again, as long as `keeping` is true: what has passed is kept in a file without a name."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._kept: Any = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - closed with the pipe
        self._at = self._passed = 0
        self.keeping = True

    def fileno(self) -> int:
        return self._fd

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int) -> None:
        self._at = offset

    def read(self, count: int) -> bytes | None:
        if self._at < self._passed:
            self._kept.seek(self._at)
            data: bytes = self._kept.read(min(count, self._passed - self._at))
        else:
            if not self.keeping:
                self._kept.close()
            if not select.select([self._fd], [], [], PIPE_WAIT_SECONDS)[0]:
                return None
            data = os.read(self._fd, count)
            self._passed += len(data)
            if self.keeping:
                self._kept.seek(0, os.SEEK_END)
                self._kept.write(data)
        self._at += len(data)
        return data

    def close(self) -> None:
        os.close(self._fd)
        self._kept.close()


class LogStream:
    """Whole lines of a source, from the first on."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._reset()

    def _reset(self) -> None:
        self.offset = 0
        """Bytes of the log that have been taken."""
        self.crc = 0
        """The CRC-32 of them."""
        self.rungs: dict[int, int] = {}
        """The CRC-32 of each of the `RUNGS` that have been passed."""
        self.at_end = False
        """True where the source has nothing more, now or ever."""
        self.waiting = False
        """True where the source is a pipe that has nothing now."""
        self._ahead = b""
        self._within_line = False

    def first_line(self) -> bytes:
        """Return the log up to the end of its first line that is not empty, without taking it.

        Nothing where it has none yet that is whole.
        """
        assert self.offset == 0
        start = at = 0
        while len(self._ahead) <= MOST_LINE_BYTES:
            if start == at:
                start = at = len(self._ahead) - len(self._ahead[at:].lstrip(b"\n"))
            if (end := self._ahead.find(b"\n", at)) >= 0:
                return self._ahead[:end]
            at = len(self._ahead)
            if not self._fill(patient=True):
                return self._ahead if self.source.is_whole and start < at else b""
        return self._ahead

    def beginning(self, count: int) -> bytes:
        """Return the whole lines in so many first bytes without taking them, or what there is of the first."""
        assert self.offset == 0
        while len(self._ahead) < count and self._fill():
            pass
        head = self._ahead[:count]
        return head[: head.rfind(b"\n") + 1] or self._ahead

    def seek(self, offset: int) -> None:
        """Go to a byte of the log. Raises IngestError where it has fewer."""
        if offset < self.offset:
            self.source.restart()
            self._reset()
        while self.offset < offset:
            if not self._ahead and not self._fill(patient=True):
                raise IngestError(
                    f"{self.source.name} is shorter than what is being counted of it.",
                    "Give the whole log: its beginning is counted in part already.",
                )
            self._take(min(len(self._ahead), offset - self.offset))

    def crc_at(self, offset: int) -> int | None:
        """Return the CRC-32 of so many first bytes, no fewer than have been taken; None where there are fewer."""
        while self.offset < offset:
            if not self._ahead and not self._fill(patient=True):
                return None
            self._take(min(len(self._ahead), offset - self.offset))
        return self.crc

    def lines(self, stop: int | None = None) -> bytes:
        """Take whole lines, some or none, up to a byte of the log; nothing at the end or where a pipe waits."""
        self._skip_rest_of_line()
        while True:
            most = len(self._ahead) if stop is None else min(len(self._ahead), stop - self.offset)
            if most and stop is not None and self.offset + most == stop:
                return self._with_line_feed(self._take(most))  # what was counted before ends here
            end = self._ahead.rfind(b"\n", 0, most) + 1
            if end:
                return self._take(end)
            if len(self._ahead) > MOST_LINE_BYTES:
                raise IngestError(f"{self.source.name} is no log: it has a line of over {MOST_LINE_BYTES:,} bytes.")
            if stop == self.offset or not self._fill():
                return b""

    def last_line(self) -> bytes:
        """Return a last line that has no line feed, without taking it; nothing where there is none."""
        return self._ahead if self.at_end and not self._within_line else b""

    def take_last_line(self) -> None:
        """Take it."""
        self._take(len(self._ahead))

    def _with_line_feed(self, data: bytes) -> bytes:
        return data if data.endswith(b"\n") else data + b"\n"

    def _skip_rest_of_line(self) -> None:
        """Pass the end of a line that was counted when it had no line feed yet."""
        while self._within_line and (self._ahead or self._fill()):
            end = self._ahead.find(b"\n") + 1
            self._take(end or len(self._ahead))

    def _fill(self, *, patient: bool = False) -> bool:
        data = self.source.read(CHUNK_BYTES)
        while patient and data is None:
            data = self.source.read(CHUNK_BYTES)
        self.waiting, self.at_end = data is None, data == b""
        self._ahead += data or b""
        return bool(data)

    def _take(self, count: int) -> bytes:
        data, self._ahead = self._ahead[:count], self._ahead[count:]
        at = 0
        for rung in RUNGS:
            if self.offset < rung <= self.offset + count:
                end = rung - self.offset
                self.crc, at = crc32(data[at:end], self.crc), end
                self.rungs[rung] = self.crc
        self.crc = crc32(memoryview(data)[at:], self.crc)
        self.offset += count
        self._within_line = data[-1:] not in (b"\n", b"") if count else self._within_line
        return data
