"""API keys for machines: made, listed, revoked and checked.

    hl_1b0rk3xw4a_4fGh...Zz9K2c1Q
    |  |          |         six characters of checksum over all before
    |  |          32 random characters: the secret, 190 bits
    |  ten characters: the key's id, by which it is found and revoked
    what scanners for leaked secrets look for

The ledger keeps them under its prefix, in a hash beside shard 0: id -> JSON of name, rights,
times and the SHA-256 of the whole key. A slow hash would protect a secret that can be guessed;
nobody guesses 190 bits, and a fast one can be checked with every request.

Guarantee: the key itself is nowhere but with whom it was given to; a revoked one stops
working within `CACHE_SECONDS` in every process.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import string
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from hitledger.connections import server_errors
from hitledger.ledger import LedgerStore
from hitledger.rights import RIGHTS

MARK = "hl_"
ID_CHARACTERS, SECRET_CHARACTERS, SUM_CHARACTERS = 10, 32, 6
LOWER = string.digits + string.ascii_lowercase
ALPHABET = string.digits + string.ascii_letters
FORM = re.compile(
    rf"{MARK}(?P<id>[0-9a-z]{{{ID_CHARACTERS}}})_[0-9A-Za-z]{{{SECRET_CHARACTERS}}}(?P<sum>[0-9A-Za-z]{{{SUM_CHARACTERS}}})"
)
CACHE_SECONDS = 30.0
"""How long what the ledger said of a key is taken for true: also how long keys outlive a ledger that is away."""
MOST_LOOKS = 20
"""How often the ledger may be asked in a row for keys that are not known."""


@dataclass(frozen=True)
class ApiKey:
    """A key as it is listed: everything but the secret. Times are seconds since 1970."""

    id: str
    name: str
    rights: frozenset[str]
    made: int
    expires: int | None
    digest: str

    @classmethod
    def decode(cls, key_id: str, text: str) -> ApiKey:
        """Read what the ledger holds; a right that this version does not know gives nothing."""
        found = json.loads(text)
        rights = frozenset(found["rights"]) & RIGHTS.keys()
        return cls(key_id, found["name"], rights, found["made"], found["expires"], found["sha256"])

    def encode(self) -> str:
        """Return what the ledger holds."""
        return json.dumps(
            {
                "name": self.name,
                "rights": sorted(self.rights),
                "made": self.made,
                "expires": self.expires,
                "sha256": self.digest,
            }
        )


class ApiKeys:
    """The keys of a ledger. Every method raises LedgerError where the ledger does not answer."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store
        # Not below `<prefix>:{0}:`: a reset drops what is there.
        self._key = store.key("keys", "{0}")

    def create(self, name: str, rights: frozenset[str], days: int | None = None) -> tuple[str, ApiKey]:
        """Make a key and return it, which is possible this once, with what is kept of it."""
        key_id = _random(LOWER, ID_CHARACTERS)
        body = f"{MARK}{key_id}_{_random(ALPHABET, SECRET_CHARACTERS)}"
        whole = body + _sum_of(body)
        made = int(time.time())
        key = ApiKey(key_id, name, rights, made, made + days * 86400 if days else None, _digest_of(whole))
        with server_errors():
            self._store.poster(0).hset(self._key, key_id, key.encode())
        return whole, key

    def list(self) -> list[ApiKey]:
        """Return all keys, oldest first."""
        (flat,) = self._store.read([(0, ("HGETALL", self._key))])
        table = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
        return sorted((ApiKey.decode(*each) for each in table.items()), key=lambda key: (key.made, key.id))

    def revoke(self, key_id: str) -> bool:
        """Forget a key; False where there is none of that id."""
        with server_errors():
            return bool(self._store.poster(0).hdel(self._key, key_id))


class KeyChecker:
    """Checks keys that come with requests, by a copy of all keys that is never older than `CACHE_SECONDS`.

    A key that the copy does not know may have been made since: the ledger is asked again, but
    for `MOST_LOOKS` at once and one a second no oftener, however many made-up keys come.
    """

    def __init__(self, keys: ApiKeys, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._known: dict[str, ApiKey] = {}
        self._read_at = float("-inf")
        self._looks, self._looks_at = float(MOST_LOOKS), clock()
        self._lock = threading.Lock()

    def check(self, whole: str) -> ApiKey | None:
        """Return the key that this is; None where it is none, or none any more. Raises LedgerError."""
        form = FORM.fullmatch(whole)
        if form is None or not hmac.compare_digest(_sum_of(whole[:-SUM_CHARACTERS]), form["sum"]):
            return None
        key = self.by_id(form["id"])
        if key is None or not hmac.compare_digest(key.digest, _digest_of(whole)):
            return None
        return key

    def by_id(self, key_id: str) -> ApiKey | None:
        """Return the key of that id while it is good. Raises LedgerError."""
        now = self._clock()
        if now - self._read_at >= CACHE_SECONDS or (key_id not in self._known and self._may_look(now)):
            self._known = {key.id: key for key in self._keys.list()}
            self._read_at = now
        key = self._known.get(key_id)
        return key if key and (key.expires is None or time.time() < key.expires) else None

    def _may_look(self, now: float) -> bool:
        with self._lock:
            self._looks = min(MOST_LOOKS, self._looks + now - self._looks_at)
            self._looks_at = now
            allowed = self._looks >= 1
            self._looks -= allowed
            return allowed


def _random(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


def _sum_of(body: str) -> str:
    """Return a CRC-32 in the alphabet's digits: it tells a key from a typing error without asking anybody."""
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(SUM_CHARACTERS):
        number, digit = divmod(number, len(ALPHABET))
        digits += ALPHABET[digit]
    return digits


def _digest_of(whole: str) -> str:
    return hashlib.sha256(whole.encode()).hexdigest()
