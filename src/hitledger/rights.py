"""What may be done, in three words. Every person, program and key has some of them; none holds another.

Which endpoint needs which is in `hitledger.web.auth.endpoints`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

STATS_READ = "stats:read"
TEST_RUN = "test:run"
LEDGER_ADMIN = "ledger:admin"
RIGHTS = {
    STATS_READ: "read reports, exports and the dashboard",
    TEST_RUN: "start and cancel test runs, and follow them",
    LEDGER_ADMIN: "audit the ledger",
}
EVERYBODY = "*"
"""In a mapping: every value, so that whoever the issuer vouches for has these rights."""


def read_rights(words: Iterable[str]) -> frozenset[str]:
    """Return rights by their names.

    Raises:
        ValueError: one is none; its text says which.
    """
    found = frozenset(words)
    for word in sorted(found):
        if word not in RIGHTS:
            raise ValueError(f"{word!r} is no right; there are {', '.join(RIGHTS)}")
    return found


def read_mapping(text: str) -> Mapping[str, frozenset[str]]:
    """Read `value=right+right; value=right`. A value may hold anything but a semicolon: `cn=ops,ou=groups=test:run`.

    Raises:
        ValueError: it cannot be read.
    """
    mapping: dict[str, frozenset[str]] = {}
    for entry in text.split(";"):
        if not entry.strip():
            continue
        value, equals, rights = entry.rpartition("=")
        if not equals or not value.strip():
            raise ValueError(entry)
        mapping[value.strip()] = read_rights(right.strip() for right in rights.split("+"))
    if not mapping:
        raise ValueError(text)
    return mapping


def rights_of(values: Iterable[str], mapping: Mapping[str, frozenset[str]] | None) -> frozenset[str]:
    """Return the rights that a claim's values give; without a mapping, those that are rights by name."""
    if mapping is None:
        return frozenset(values) & RIGHTS.keys()
    given = [mapping.get(value, frozenset()) for value in values]
    return frozenset().union(mapping.get(EVERYBODY, frozenset()), *given)
