"""All rows of a report as a stream of bytes: NDJSON, CSV or Parquet, compressed or not.

Rows are of URLs, of sections or of routes (see `Page.flat`). Memory stays flat: they come in
pieces of some thousands and leave as they come.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import chain, islice
from typing import Any, TypeVar

from hitledger.errors import QueryError
from hitledger.report.page import ROUTES, Columns, rows_json
from hitledger.report.source import Flat

MEDIA_TYPES = {
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
FORMULA_STARTS = "=+-@\t\r\0'"
"""A cell that begins so may be taken for a formula by a spreadsheet (OWASP, CSV injection)."""
PARQUET_ROWS = 100_000
TORN = {"ndjson": b'{"error":"the export broke off', "csv": b'"the export broke off', "parquet": b""}
"""What ends an export that broke off: no whole row, and no line feed. A Parquet file lacks its end then."""
ENDS = {"ndjson": b"\n", "csv": b"\n", "parquet": b"PAR1"}
"""What a whole export ends with, if it holds anything."""

T = TypeVar("T")
Encoder = Callable[[Iterator[Flat], Columns], Iterator[bytes]]
"""From pieces of rows, and what their texts are."""


def begun(pieces: Iterator[T]) -> Iterator[T]:
    """Fetch the first piece at once, so that what a report is refused for is said before anything is written."""
    return chain(list(islice(pieces, 1)), pieces)


def torn_where_broken(chunks: Iterator[bytes], kind: str) -> Iterator[bytes]:
    """Yield chunks, and end them so that nobody takes them for all there is where they break off.

    A server may end a body that failed as it ends a whole one; Granian does.
    """
    try:
        yield from chunks
    except Exception:
        yield TORN[kind]
        raise


def as_ndjson(pieces: Iterator[Flat], columns: Columns) -> Iterator[bytes]:
    """Yield one JSON object a line."""
    for flat in pieces:
        yield (rows_json(flat, columns, "\n") + "\n").encode()


def as_csv(pieces: Iterator[Flat], columns: Columns) -> Iterator[bytes]:
    """Yield a header and rows (RFC 4180); URLs hold nothing that needs quoting, routes may.

    A name that a spreadsheet could take for a formula has a quotation mark put before it.
    """
    pieces = begun(pieces)
    yield (",".join(columns) + "\r\n").encode()
    width = len(columns)
    line = ",".join(["%s"] * width) + "\r\n"
    for flat in pieces:
        safe = flat.copy()
        safe[::width] = [f"'{name}" if name[:1] in FORMULA_STARTS else name for name in flat[::width]]
        if columns == ROUTES:
            safe[::width] = map(_quoted, safe[::width])
        yield (line * (len(safe) // width) % tuple(safe)).encode()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if '"' in name or "," in name else name


def as_parquet(pieces: Iterator[Flat], columns: Columns) -> Iterator[bytes]:
    """Yield a Parquet file: a column of texts, the others 64-bit whole numbers.

    Raises:
        QueryError: the package pyarrow is not installed.
    """
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise QueryError("format", "parquet needs the package pyarrow: pip install 'hitledger[parquet]'.") from None
    return _parquet(pieces, columns, arrow, parquet)


def _parquet(pieces: Iterator[Flat], columns: Columns, arrow: Any, parquet: Any) -> Iterator[bytes]:
    name, *numbers = columns
    schema = arrow.schema([(name, arrow.string()), *((column, arrow.int64()) for column in numbers)])
    sink = _Sink()
    with parquet.ParquetWriter(sink, schema) as writer:
        waiting: Flat = []
        for flat in pieces:
            waiting += flat
            if len(waiting) >= len(columns) * PARQUET_ROWS:
                writer.write_table(_table(arrow, schema, waiting))
                waiting = []
                yield sink.taken()
        if waiting:
            writer.write_table(_table(arrow, schema, waiting))
    yield sink.taken()


def _table(arrow: Any, schema: Any, flat: Flat) -> Any:
    width = len(schema)
    numbers = [list(map(int, flat[column::width])) for column in range(1, width)]
    return arrow.table([flat[::width], *numbers], schema=schema)


class _Sink(io.RawIOBase):
    """A file that is written from its beginning to its end, and read away meanwhile."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._written += len(part)
        return len(part)

    def taken(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


ENCODERS: dict[str, Encoder] = {"ndjson": as_ndjson, "csv": as_csv, "parquet": as_parquet}


def compressions() -> list[str]:
    """Return the content codings that this installation has, best first."""
    return ["zstd", "gzip"] if _zstd() else ["gzip"]


def compressed(chunks: Iterator[bytes], coding: str) -> Iterator[bytes]:
    """Yield chunks compressed with a content coding of HTTP; `identity` leaves them as they are."""
    if coding == "identity":
        yield from chunks
        return
    zstd = _zstd()
    packer: Any = zlib.compressobj(6, zlib.DEFLATED, 31) if coding == "gzip" or not zstd else zstd()
    for chunk in chunks:
        packed = packer.compress(chunk)
        if packed:
            yield packed
    yield packer.flush()


def _zstd() -> Callable[[], Any] | None:
    try:
        return import_module("compression.zstd").ZstdCompressor  # type: ignore[no-any-return]
    except ImportError:
        pass
    try:
        return import_module("zstandard").ZstdCompressor(level=3).compressobj  # type: ignore[no-any-return]
    except ImportError:
        return None
