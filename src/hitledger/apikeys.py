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
from collections import OrderedDict
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
MOST_CACHED = 1024


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

    def find(self, key_id: str) -> ApiKey | None:
        """Return the key of that id."""
        (text,) = self._store.read([(0, ("HGET", self._key, key_id))])
        return ApiKey.decode(key_id, text) if text else None


class KeyChecker:
    """Checks keys that come with requests, asking the ledger for each at most every `CACHE_SECONDS`."""

    def __init__(self, keys: ApiKeys, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, ApiKey | None]] = OrderedDict()
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
        with self._lock:
            until, key = self._known.get(key_id, (0.0, None))
        if until <= now:
            key = self._keys.find(key_id)
            with self._lock:
                self._known[key_id] = (now + CACHE_SECONDS, key)
                self._known.move_to_end(key_id)
                while len(self._known) > MOST_CACHED:
                    self._known.popitem(last=False)
        return key if key and (key.expires is None or time.time() < key.expires) else None


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
