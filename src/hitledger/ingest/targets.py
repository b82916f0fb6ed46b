"""What a logged request counts under: exactly what the middlewares would count it under.

A *target* is what stands between the method and the version of a request line, as it was
sent: a path with or without a query string, a whole address, or `*`.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from hitledger.paths import OVERSIZED, UNMATCHED, url_of
from hitledger.settings import Settings

NO_REQUEST = "no request"
GARBAGE = "garbage for a request line"
NO_ANSWER = "never answered"
TUNNEL = "a tunnel (CONNECT)"
UNCOUNTED = "a path that is not counted"

CACHE_ENTRIES = 500_000
"""Targets whose names are kept; about 100 MB."""

_REQUEST = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) (.+?)( HTTP/\d(?:\.\d)?)?", re.DOTALL)
_ADDRESS = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_ESCAPE = re.compile(rb"\\(x[0-9A-Fa-f]{2}|.)", re.DOTALL)
_HASH_ESCAPE = re.compile(rb"#([0-9A-Fa-f]{2})")
_PLAIN_ESCAPES = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"b": b"\b", b"v": b"\v", b"f": b"\f"}


class NotCountedError(Exception):
    """A line that is kept out; the reason is its text. `bad` where the line is at fault."""

    def __init__(self, reason: str, *, bad: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.bad = bad


def unescape(text: bytes) -> bytes:
    r"""Undo what servers write for quotes, backslashes and bytes that are not ASCII: \x22, \" and the like."""
    if b"\\" not in text:
        return text

    def plain(match: re.Match[bytes]) -> bytes:
        found = match[1]
        return bytes([int(found[1:], 16)]) if len(found) == 3 else _PLAIN_ESCAPES.get(found, found)

    return _ESCAPE.sub(plain, text)


def unescape_hashes(text: bytes) -> bytes:
    """Undo what HAProxy writes for quotes, hashes and bytes that are not ASCII: #22 and the like."""
    return _HASH_ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), text)


def target_of(request: bytes) -> bytes:
    """Return the target of a request line. Raises NotCountedError."""
    if request in (b"", b"-"):
        raise NotCountedError(NO_REQUEST)
    match = _REQUEST.fullmatch(request)
    if not match:
        raise NotCountedError(GARBAGE)
    method, target, version = match.groups()
    if method == b"CONNECT":
        raise NotCountedError(TUNNEL, bad=False)
    # HTTP/0.9 has no version; neither has a line that was too long for its server.
    if version is None and (b" " in target or not target.startswith(b"/")):
        raise NotCountedError(GARBAGE)
    return target


def path_of_target(target: bytes) -> bytes:
    """Return the path that an application would see. Raises NotCountedError."""
    address = _ADDRESS.match(target)
    if address:
        target = target[address.end() :] or b"/"
    elif target != b"*" and not target.startswith(b"/"):
        raise NotCountedError(GARBAGE)
    return unquote_to_bytes(target.partition(b"#")[0].partition(b"?")[0])


class Names:
    """What requests are counted under by the settings, each distinct target looked at once."""

    def __init__(self, settings: Settings) -> None:
        self._merge = settings.merge_trailing_slash
        self._most = settings.max_path_bytes
        listed = [path.encode() for path in settings.uncounted_paths]
        self._uncounted = frozenset(path for path in listed if not path.endswith(b"*"))
        self._prefixes = tuple(path[:-1] for path in listed if path.endswith(b"*"))
        self._unmatched = () if settings.count_unmatched else (b"404", b"405")
        self._known: dict[bytes, str] = {}
        self._paths: dict[bytes, str] = {}

    def name_of(self, target: bytes, status: bytes, *, is_path: bool = False) -> str:
        """Return the URL or line of one request; `is_path` says that the target is a decoded path already.

        Raises:
            NotCountedError: it is none, or not counted.
        """
        known = self._paths if is_path else self._known
        name = known.get(target)
        if name is None:
            if len(known) >= CACHE_ENTRIES:
                known.clear()
            name = known[target] = self._name_of_path(target if is_path else path_of_target(target))
        if not name:
            raise NotCountedError(UNCOUNTED, bad=False)
        return UNMATCHED if status in self._unmatched and name is not OVERSIZED else name

    def _name_of_path(self, path: bytes) -> str:
        """Return what a path is counted under whatever the answer; nothing where it is not counted."""
        if path in self._uncounted or path.startswith(self._prefixes):
            return ""
        return OVERSIZED if len(path) > self._most else url_of(path, merge_trailing_slash=self._merge)
