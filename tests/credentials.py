"""Credentials for the tests of a service that lets in only those it knows."""

from __future__ import annotations

from hitledger.apikeys import ApiKeys
from hitledger.ledger import LedgerStore
from hitledger.rights import RIGHTS


def api_key(store: LedgerStore, *rights: str) -> str:
    """Make an API key with these rights, or all of them, and return it."""
    whole, _ = ApiKeys(store).create("a test", frozenset(rights or RIGHTS))
    return whole


def bearer(token: str) -> dict[str, str]:
    """Return the headers with which a program sends a key or a token."""
    return {"Authorization": f"Bearer {token}"}
