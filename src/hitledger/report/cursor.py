"""Places in a report's order, and the cursors that carry them to a client and back.

A report's order is that of `ZREVRANGE`: most requests first, equal counts by URL, downwards
byte by byte. A *place* is one row's position in that order, named by the row itself, so that
a page continues from it at any depth and however ranks have shifted since.

A cursor is base64url over a check, a place, and where in each part of the order that place was:

    check, hits, space, URL; and, where they are known: NUL, the place's rank in each part (4 bytes each)

The check ties it to one ledger and one query: a cursor from elsewhere is refused instead of
answered with a page of something else. It is no secret and keeps nobody out; all that a forged
cursor can name is a place. Ranks only say where to look first (`source.LiveSource`).
"""

from __future__ import annotations

import re
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import blake2b

from hitledger.errors import QueryError

Place = tuple[int, str]
"""(requests, URL): the row that a page begins just behind."""
Ranks = tuple[int, ...]
"""How many rows of each part stood before a page when its cursor was made; empty where nobody knows."""

CHECK_BYTES = 9
MOST_CURSOR_CHARACTERS = 100_000
_PLACE = re.compile(r"([0-9]{1,16}) ([!-~]+)")


def encode_cursor(place: Place, subject: str, ranks: Sequence[int] = ()) -> str:
    """Return the cursor for a place; `subject` says which ledger and query it belongs to."""
    raw = f"{place[0]} {place[1]}".encode("ascii")
    if ranks:
        raw += struct.pack(f">x{len(ranks)}I", *ranks)
    return urlsafe_b64encode(_check(raw, subject) + raw).rstrip(b"=").decode()


def decode_cursor(cursor: str, subject: str) -> tuple[Place, Ranks]:
    """Return the place that a cursor stands for, and the ranks that it had.

    Raises:
        QueryError: it is no cursor, or one of another query or ledger.
    """
    if re.fullmatch(r"[A-Za-z0-9_-]+", cursor) is None or len(cursor) > MOST_CURSOR_CHARACTERS:
        raise QueryError("cursor", "is not one that this service gave out.")
    try:
        whole = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        check, raw = whole[:CHECK_BYTES], whole[CHECK_BYTES:]
        text, _, packed = raw.partition(b"\0")
        found = _PLACE.fullmatch(text.decode("ascii"))
        ranks = [rank for (rank,) in struct.iter_unpack(">I", packed)]
    except (ValueError, struct.error):
        found = None
    if found is None:
        raise QueryError("cursor", "is not one that this service gave out.")
    if check != _check(raw, subject):
        raise QueryError("cursor", "belongs to another query or another ledger.")
    return (int(found[1]), found[2]), tuple(ranks)


def _check(raw: bytes, subject: str) -> bytes:
    return blake2b(raw, digest_size=CHECK_BYTES, key=blake2b(subject.encode()).digest()).digest()
