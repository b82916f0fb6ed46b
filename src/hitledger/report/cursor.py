"""Places in a report's order, and the cursors that carry them to a client and back.

A report's order is that of `ZREVRANGE`: most requests first, equal counts by URL, downwards
byte by byte. A *place* is one row's position in that order, named by the row itself, so that
a page continues from it at any depth and however ranks have shifted since.

A cursor is base64url over a check and a place. The check ties it to one ledger and one query:
a cursor from elsewhere is refused instead of answered with a page of something else. It is
no secret and keeps nobody out; all that a forged cursor can name is a place.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b

from hitledger.errors import QueryError

Place = tuple[int, str]
"""(requests, URL): the row that a page begins just behind."""

CHECK_BYTES = 9
MOST_CURSOR_CHARACTERS = 100_000
_PLACE = re.compile(r"([0-9]{1,16}) ([!-~]+)")


def encode_cursor(place: Place, subject: str) -> str:
    """Return the cursor for a place; `subject` says which ledger and query it belongs to."""
    text = f"{place[0]} {place[1]}".encode("ascii")
    return urlsafe_b64encode(_check(text, subject) + text).rstrip(b"=").decode()


def decode_cursor(cursor: str, subject: str) -> Place:
    """Return the place that a cursor stands for.

    Raises:
        QueryError: it is no cursor, or one of another query or ledger.
    """
    if re.fullmatch(r"[A-Za-z0-9_-]+", cursor) is None or len(cursor) > MOST_CURSOR_CHARACTERS:
        raise QueryError("cursor", "is not one that this service gave out.")
    try:
        raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        check, text = raw[:CHECK_BYTES], raw[CHECK_BYTES:]
        found = _PLACE.fullmatch(text.decode("ascii"))
    except ValueError:
        found = None
    if found is None:
        raise QueryError("cursor", "is not one that this service gave out.")
    if check != _check(text, subject):
        raise QueryError("cursor", "belongs to another query or another ledger.")
    return int(found[1]), found[2]


def _check(text: bytes, subject: str) -> bytes:
    return blake2b(text, digest_size=CHECK_BYTES, key=blake2b(subject.encode()).digest()).digest()
