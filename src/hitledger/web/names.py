"""URLs as people read them: letters of all scripts instead of their percent-encoding, where that is safe.

A URL is ASCII, and whatever is not is percent-encoded in it. Only such characters are decoded, as
browsers' address bars do it: an encoded `/`, `<` or `%` stays encoded, so that two URLs never read
alike, and a name means what it shows. Characters that are invisible, that turn the direction of what
stands beside them, or that look like an ASCII character stay encoded too.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote

_ENCODED = re.compile(r"(?:%[89A-F][0-9A-F])+")
_FROM_RIGHT = {"R", "AL", "AN"}
_LIKE_A_SLASH = "\u2044\u2215\u2571\u29f8\u29f5\u1735\u2cc6\u4e3f\u3033"
MOST_MARKS = 2
"""Marks on one letter; some scripts need two, and more would reach into the lines above."""


def readable(url: str) -> str:
    """Return a canonical URL with what can be read safely decoded."""
    return _ENCODED.sub(_decoded, url)


def _decoded(found: re.Match[str]) -> str:
    try:
        text = bytes.fromhex(found.group().replace("%", "")).decode()
    except UnicodeDecodeError:
        return found.group()
    if unicodedata.normalize("NFC", text) != text:
        return found.group()
    shown, marks = "", MOST_MARKS
    for each in text:
        is_mark = unicodedata.category(each).startswith("M")
        marks = marks + 1 if is_mark else 0
        shown += each if marks <= MOST_MARKS and _is_safe(each) else quote(each)
    return shown


def _is_safe(each: str) -> bool:
    if not each.isprintable() or each.isspace() or each in _LIKE_A_SLASH:
        return False
    if unicodedata.bidirectional(each) in _FROM_RIGHT:
        return False
    return not any(plain.isascii() for plain in unicodedata.normalize("NFKC", each))
