"""Tokens of the issuer: good only if every single thing about them is (RFC 8725, RFC 9068).

Signed with an allowed algorithm and a key that the issuer publishes for it; from this issuer,
for this service, not over, not early. What a header says of where to find keys is not read.
"""

from __future__ import annotations

import hmac
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import BadSignatureError, ClaimError, ExpiredTokenError, JoseError
from joserfc.jwk import Key
from joserfc.jws import JWSRegistry

from hitledger.rights import read_mapping, rights_of
from hitledger.settings import Settings
from hitledger.web.auth.guard import InvalidTokenError
from hitledger.web.auth.issuer import Issuer
from hitledger.web.auth.principal import Principal

TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt", "application/jwt"})
"""What a token may call itself: a logout token or a proof of possession is signed by the same key."""
NOT_FOR_ACCESS = frozenset({"nonce", "at_hash", "c_hash", "events"})
"""Claims by which ID tokens and logout tokens are told from access tokens, where the audience is the same."""
OTHER_TYPES = frozenset({"ID", "Refresh", "Offline", "Logout"})
"""Keycloak's own claim `typ` for what is no access token."""
NAMES = ("preferred_username", "email", "name", "client_id", "azp", "sub")
MOST_NAME = 100
MOST_KEY_ID = 256


class TokenChecker:
    """Checks tokens against an issuer."""

    def __init__(self, settings: Settings, issuer: Issuer) -> None:
        self._settings = settings
        self._issuer = issuer
        self._mapping = read_mapping(settings.oidc_rights) if settings.oidc_rights else None

    def check(self, text: str) -> Principal:
        """Return whose access token it is.

        Raises:
            InvalidTokenError: it is not good. IssuerUnavailableError: nobody can tell.
        """
        claims = self._decode(text, self._settings.oidc_audience or self._settings.oidc_client_id or "")
        if claims.keys() & NOT_FOR_ACCESS or str(claims.get("typ")) in OTHER_TYPES:
            raise InvalidTokenError("it is no access token.")
        return self.principal(claims)

    def identity(self, text: str, nonce: str) -> dict[str, Any]:
        """Return the claims of an ID token that answers a request with this nonce. Raises as `check` does."""
        client_id = self._settings.oidc_client_id or ""
        claims = self._decode(text, client_id)
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
            raise InvalidTokenError("it answers another request.")
        if claims.get("azp", client_id) != client_id:
            raise InvalidTokenError("it is for another client.")
        if not isinstance(claims.get("sub"), str):
            raise InvalidTokenError("it says of nobody that they are who they are.")
        return claims

    def principal(self, claims: dict[str, Any]) -> Principal:
        """Return who the claims are about, and what they may do."""
        name = next((str(claims[each]) for each in NAMES if claims.get(each)), "somebody")
        values = values_at(claims, self._settings.oidc_rights_claim)
        rights = rights_of(values, self._mapping)
        return Principal(f"sub:{claims.get('sub', name)}", name[:MOST_NAME], rights, "token")

    def _decode(self, text: str, audience: str) -> dict[str, Any]:
        try:
            header = jws.extract_compact(text.encode("ascii")).headers()
            algorithm = self._acceptable(header)
            keys = self._issuer.keys_for(header.get("kid"))
            claims = _verified(text, keys, algorithm)
            jwt.JWTClaimsRegistry(
                leeway=self._settings.oidc_leeway_seconds,
                iss={"essential": True, "value": self._settings.oidc_issuer or ""},
                aud={"essential": True, "value": audience},
                exp={"essential": True},
            ).validate(claims)
        except ExpiredTokenError:
            raise InvalidTokenError("it is over.") from None
        except ClaimError as error:
            raise InvalidTokenError(f"its {error.claim} is missing or is not what it should be.") from None
        except (JoseError, ValueError, RecursionError):
            raise InvalidTokenError("its form or signature is wrong.") from None
        return claims

    def _acceptable(self, header: dict[str, Any]) -> str:
        """Return a header's algorithm, where all that it says is acceptable."""
        algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        if algorithm not in self._settings.oidc_algorithms:
            raise InvalidTokenError("its algorithm is not allowed.")
        if key_id is not None and not (isinstance(key_id, str) and len(key_id) <= MOST_KEY_ID):
            raise InvalidTokenError("its key has no name.")
        if not isinstance(kind, str) or kind.lower() not in TYPES:
            raise InvalidTokenError("it is a token for something else.")
        if "crit" in header:
            raise InvalidTokenError("it demands what is not understood here.")
        return str(algorithm)


def _verified(text: str, keys: list[Key], algorithm: str) -> dict[str, Any]:
    """Return the claims that one of the keys has signed with this algorithm. Raises JoseError."""
    # Headers that nobody asked for are ignored, as RFC 7515 says; the one algorithm is pinned.
    registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    for key in keys:
        try:
            return jwt.decode(text, key, registry=registry).claims
        except JoseError:
            continue
    raise BadSignatureError


def values_at(claims: dict[str, Any], path: str) -> list[str]:
    """Return what a claim holds, as words; a path's steps are divided by dots, unless the whole is a claim's name."""
    found: Any = claims
    if path in claims:
        found = claims[path]
    else:
        for step in path.split("."):
            found = found.get(step) if isinstance(found, dict) else None
    if isinstance(found, str):
        return found.split()
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []
