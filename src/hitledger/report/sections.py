"""Which section a URL is added up under: by depth, or by patterns that the settings name.

A section at depth d is a URL up to and with the slash behind its d-th segment; a URL that ends
before that is a section of its own. `/api/product/17/` is in `/api/` at depth 1, in
`/api/product/` at depth 2, and itself at depth 3 and below.

Patterns come from a TOML file:

    [[pattern]]
    match = "/api/product/*/"          # * is one or more characters but no slash, ** is anything
    except = ["/api/product/new/"]     # these stay what they are, unless a later pattern has them

The first pattern that matches a URL has it. A URL that none matches stays itself. No URL looks
like a pattern, because in a URL's canonical form an asterisk is %2A.
"""

from __future__ import annotations

import re
import tomllib
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote_from_bytes, unquote_to_bytes

from hitledger.errors import SettingsError

MOST_PATTERNS = 500
_EXAMPLE = 'It takes tables such as: [[pattern]] match = "/api/product/*/" except = ["/api/product/new/"]'


class Sections(Protocol):
    """A way to divide URLs into sections."""

    def of(self, urls: list[bytes]) -> list[bytes]:
        """Return the section of each URL."""


class ByDepth:
    """Sections of so many segments."""

    def __init__(self, depth: int) -> None:
        self._slashes = depth + 1

    def of(self, urls: list[bytes]) -> list[bytes]:
        """Return each URL up to the slash behind its last segment that counts."""
        slashes = self._slashes
        found = []
        for url in urls:
            pieces = url.split(b"/", slashes)
            found.append(url[: len(url) - len(pieces[slashes])] if len(pieces) > slashes else url)
        return found


class ByPattern:
    """Sections by the patterns of a file."""

    def __init__(self, rules: list[tuple[str, list[str]]]) -> None:
        """Take (pattern, its exceptions), the first that matches first."""
        self.digest = blake2b(repr(rules).encode(), digest_size=8).hexdigest()
        self.names = [_canonical(match) for match, _ in rules]
        self._names = [name.encode() for name in self.names]
        pieces = []
        for name, (_, exceptions) in zip(self.names, rules, strict=True):
            unless = "|".join(_expression(_canonical(each)) for each in exceptions)
            pieces.append((rf"(?!(?:{unless})\Z)" if unless else "") + f"({_expression(name)})")
        # Without a rule it matches nothing.
        self._rules = re.compile("|".join(pieces).encode() or rb"(?!)")

    def of(self, urls: list[bytes]) -> list[bytes]:
        """Return the pattern of each URL, or the URL itself."""
        match, names = self._rules.fullmatch, self._names
        return [names[(found.lastindex or 1) - 1] if (found := match(url)) else url for url in urls]


def read_patterns(path: Path | None) -> ByPattern:
    """Read a file of patterns; without one there are none.

    Raises:
        SettingsError: it cannot be read, or is not as it should be.
    """
    if path is None:
        return ByPattern([])
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"HITLEDGER_PATTERNS_FILE cannot be read: {error.strerror}.", f"{path}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"HITLEDGER_PATTERNS_FILE is no TOML: {error}.", _EXAMPLE) from None
    tables = content.pop("pattern", [])
    if content or not isinstance(tables, list) or len(tables) > MOST_PATTERNS:
        raise SettingsError(
            f"HITLEDGER_PATTERNS_FILE holds something else than up to {MOST_PATTERNS} patterns.", _EXAMPLE
        )
    return ByPattern([_rule(table) for table in tables])


def _rule(table: Any) -> tuple[str, list[str]]:
    if isinstance(table, dict) and set(table) <= {"match", "except"}:
        match, exceptions = table.get("match"), table.get("except", [])
        texts = [match, *exceptions] if isinstance(exceptions, list) else [None]
        if all(isinstance(text, str) and text.startswith("/") for text in texts):
            return str(match), list(exceptions)
    raise SettingsError(f"HITLEDGER_PATTERNS_FILE has a pattern that cannot be used: {str(table)[:200]}.", _EXAMPLE)


def _canonical(pattern: str) -> str:
    return "*".join(quote_from_bytes(unquote_to_bytes(piece), safe="/") for piece in pattern.split("*"))


def _expression(pattern: str) -> str:
    pieces = re.split(r"(\*+)", pattern)
    wild = {"*": "[^/]+"}
    return "".join(wild.get(piece, ".*") if piece.startswith("*") else re.escape(piece) for piece in pieces)
