"""Credentials for the tests of a service that lets in only those it knows."""

from __future__ import annotations

from typing import Any

from hitledger.apikeys import ApiKeys
from hitledger.ledger import LedgerStore
from hitledger.rights import RIGHTS

WITHOUT_SIGN_IN: dict[str, Any] = {"auth": None, "oidc_issuer": None, "oidc_client_id": None}
"""Changes to settings that say nothing of who is let in, whatever the whole suite runs with."""


def api_key(store: LedgerStore, *rights: str) -> str:
    """Make an API key with these rights, or all of them, and return it."""
    whole, _ = ApiKeys(store).create("a test", frozenset(rights or RIGHTS))
    return whole


def bearer(token: str | None) -> dict[str, str]:
    """Return the headers with which a program sends a key or a token, if it has one."""
    return {"Authorization": f"Bearer {token}"} if token else {}
