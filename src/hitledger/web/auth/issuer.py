"""What the OpenID Connect issuer says of itself: its endpoints and the keys that it signs with.

Read when first needed, kept for hours, and outlived: while the issuer is away, what it said last
stays good for a day. A token that names an unknown key makes one look at most every
`LEAST_SECONDS`, however many such tokens come, and one thread at a time looks. Nothing of a
token is ever followed: neither an address nor a key in its header.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, Key, OKPKey, RSAKey

from hitledger.addresses import is_loopback
from hitledger.web.auth.guard import IssuerUnavailableError

log = logging.getLogger("hitledger.auth")

FRESH_SECONDS = 3600.0
STALE_SECONDS = 86_400.0
LEAST_SECONDS = 10.0
"""Least time between two looks, whatever asks for them."""
ANSWER_SECONDS = 2.0
"""How long each of the issuer's answers may take."""
MOST_ANSWER_BYTES = 512 * 1024
KEY_KINDS = (RSAKey, ECKey, OKPKey)
"""Pairs only. A shared secret that somebody publishes is none."""

Fetch = Callable[[str], Any]


@dataclass(frozen=True)
class Known:
    """What the issuer has said."""

    metadata: dict[str, Any]
    keys: tuple[Key, ...]

    def endpoint(self, name: str) -> str | None:
        """Return one of the issuer's addresses, where it has it and it is safe to go to."""
        url = self.metadata.get(name)
        return url if isinstance(url, str) and is_safe(url) else None

    def keys_for(self, key_id: str | None) -> list[Key]:
        """Return the keys of that id; for a token that names none, the only key there is."""
        if key_id is None:
            return list(self.keys) if len(self.keys) == 1 else []
        return [key for key in self.keys if key.kid == key_id]


class Issuer:
    """The issuer, as it was last seen. Safe for threads."""

    def __init__(self, url: str, fetch: Fetch | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._fetch = fetch or fetch_json
        self._clock = clock
        self._known: Known | None = None
        self._seen_at = self._looked_at = float("-inf")
        self._looking = threading.Lock()

    def known(self) -> Known:
        """Return what the issuer says, or said. Raises IssuerUnavailableError."""
        if self._known is None:
            self._look(wait=True)
        elif self._clock() - self._seen_at > FRESH_SECONDS:
            self._look(wait=False)
        known = self._known
        if known is None or self._clock() - self._seen_at > STALE_SECONDS:
            raise IssuerUnavailableError("The issuer of tokens does not answer.")
        return known

    def keys_for(self, key_id: str | None) -> list[Key]:
        """Return the keys that may have signed a token; empty where there are none. Raises IssuerUnavailableError."""
        found = self.known().keys_for(key_id)
        if not found:
            self._look(wait=True)
            found = self.known().keys_for(key_id)
        return found

    def _look(self, *, wait: bool) -> None:
        """Ask the issuer, unless somebody does or lately did; without `wait`, another thread's look is left to it."""
        before = self._looked_at
        if not self._looking.acquire(blocking=wait):
            return
        try:
            if self._looked_at == before and self._clock() - before >= LEAST_SECONDS:
                self._looked_at = self._clock()
                self._known, self._seen_at = self._read(), self._looked_at
        except (
            OSError,
            ValueError,
            RecursionError,
        ) as error:  # requests' own errors, and certificates that are missing
            log.warning("the issuer of tokens cannot be asked: %s", error)
        finally:
            self._looking.release()

    def _read(self) -> Known:
        metadata = self._fetch(self._url.rstrip("/") + "/.well-known/openid-configuration")
        if not isinstance(metadata, dict) or metadata.get("issuer") != self._url:
            raise ValueError("it calls itself otherwise than HITLEDGER_OIDC_ISSUER does")
        jwks_uri = metadata.get("jwks_uri")
        if not isinstance(jwks_uri, str) or not is_safe(jwks_uri):
            raise ValueError("it has no jwks_uri with https")
        return Known(metadata, read_keys(self._fetch(jwks_uri)))


def read_keys(document: Any) -> tuple[Key, ...]:
    """Return the public keys of a JWK set that may sign; what cannot be read or is for anything else is left out.

    Raises:
        ValueError: none is left.
    """
    entries = document.get("keys") if isinstance(document, dict) else None
    found = []
    for entry in entries if isinstance(entries, list) else []:
        try:
            key = JWKRegistry.import_key(entry)
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        if isinstance(key, KEY_KINDS) and entry.get("use", "sig") == "sig":
            found.append(key)
    if not found:
        raise ValueError("it publishes no key that could have signed anything")
    return tuple(found)


def is_safe(url: str) -> bool:
    """Tell whether an address of the issuer is one with TLS, or on this machine."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))


def fetch_json(url: str) -> Any:
    """Return a document: from exactly there, soon, and of a bearable size.

    Raises:
        requests.RequestException: nobody answers, or not with it. ValueError: it is no JSON, or too much.
    """
    deadline = time.monotonic() + ANSWER_SECONDS
    with requests.get(
        url, timeout=ANSWER_SECONDS, allow_redirects=False, stream=True, headers={"Accept": "application/json"}
    ) as answer:
        if answer.status_code != requests.codes.ok:
            raise ValueError(f"it answers {answer.status_code}")
        content = b""
        for chunk in answer.iter_content(16 * 1024):
            content += chunk
            if len(content) > MOST_ANSWER_BYTES or time.monotonic() > deadline:
                raise ValueError("its answer is too long, or takes too long")
    return json.loads(content)
