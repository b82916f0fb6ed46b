"""The guard before every endpoint: who asks, may they, and where else to send them.

Open endpoints pay one look-up in a table. `Authorization` decides where there is one: a
browser's cookie does not stand in for a key or token that is no good.
"""

from __future__ import annotations

from typing import NoReturn, Protocol
from urllib.parse import urlencode, urlsplit

from flask import Flask, Response, g, redirect, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from hitledger.apikeys import MARK, KeyChecker
from hitledger.errors import HitledgerError, LedgerError
from hitledger.settings import Settings
from hitledger.web.auth.crosssite import SAFE_METHODS, is_cross_site, says_where_from
from hitledger.web.auth.endpoints import OPEN, needs_of
from hitledger.web.auth.principal import ANYBODY, NOBODY, Principal, principal
from hitledger.web.auth.sessions import signed_in
from hitledger.web.problems import ProblemError, problem
from hitledger.web.requests import is_page_wanted

REALM = 'Bearer realm="hitledger"'
MOST_CREDENTIAL = 16 * 1024
RETRY_SECONDS = "10"


class InvalidTokenError(HitledgerError):
    """A token is not good; its text says why, for the client to see."""


class IssuerUnavailableError(HitledgerError):
    """The issuer cannot be reached, and nothing that it has said is remembered."""


class Tokens(Protocol):
    """Checks programs' tokens."""

    def check(self, text: str) -> Principal:
        """Return whose token it is. Raises InvalidTokenError, IssuerUnavailableError."""


class Guard:
    """Decides on each request. `tokens` is None where no issuer is set."""

    def __init__(self, settings: Settings, keys: KeyChecker, tokens: Tokens | None) -> None:
        self._off = settings.auth_mode == "none"
        self._keys = keys
        self._tokens = tokens
        self._own_hosts = frozenset({urlsplit(settings.public_url or settings.own_url).netloc})

    def install(self, app: Flask) -> None:
        """Stand before every endpoint of an application."""
        app.before_request(self._check)
        app.context_processor(lambda: {"principal": principal()})

    def _check(self) -> AnyResponse | None:
        if is_cross_site(request, self._own_hosts):
            problem(403, "A page of another site may not change anything here.")
        endpoint = request.endpoint
        if self._off:
            g.principal = ANYBODY
            return None
        # Nothing is there to guard, or only a preflight asks, which browsers send without credentials.
        if endpoint is None or request.method == "OPTIONS":
            return None
        needs = needs_of(endpoint)
        if needs == OPEN:
            return None
        g.principal = who = self._who()
        if who.may(*needs):
            return None
        return _refuse(who, needs)

    def _who(self) -> Principal:
        header = request.headers.get("Authorization")
        if header is not None:
            return self._bearer(header)
        who = signed_in(self._by_key_id)
        if who is not NOBODY and request.method not in SAFE_METHODS and not says_where_from(request):
            problem(403, "A sign-in cookie changes something only for a browser that says which page asks.")
        return who

    def _bearer(self, header: str) -> Principal:
        scheme, _, text = header.partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer" or not text or len(text) > MOST_CREDENTIAL or not text.isascii():
            _unauthorized("Send `Authorization: Bearer` with an API key or a token.", "invalid_request")
        if text.startswith(MARK):
            return self._by_key(text)
        if self._tokens is None:
            _unauthorized("This is no API key of this service.", "invalid_token")
        try:
            return self._tokens.check(text)
        except InvalidTokenError as error:
            _unauthorized(f"The token is not good: {error}", "invalid_token")
        except IssuerUnavailableError:
            problem(503, "Tokens cannot be checked now: their issuer does not answer.", {"Retry-After": RETRY_SECONDS})

    def _by_key(self, text: str) -> Principal:
        try:
            key = self._keys.check(text)
        except LedgerError:
            _keys_away()
        if key is None:
            _unauthorized("The API key is unknown, revoked or over.", "invalid_token")
        return Principal(f"key:{key.id}", key.name, key.rights, "key")

    def _by_key_id(self, key_id: str) -> Principal:
        """Return whom a cookie stands for that was given for a key."""
        try:
            key = self._keys.by_id(key_id)
        except LedgerError:
            _keys_away()
        return Principal(f"key:{key.id}", key.name, key.rights, "session") if key else NOBODY


def _refuse(who: Principal, needs: frozenset[str]) -> AnyResponse:
    wanted = " or ".join(sorted(needs))
    if who is NOBODY:
        if is_page_wanted():
            query = f"?{request.query_string.decode('latin-1')}" if request.query_string else ""
            return redirect("/auth/sign-in?" + urlencode({"next": request.path + query}), 302, Response)
        _unauthorized(f"This needs the right {wanted}. Send `Authorization: Bearer` with an API key or a token.")
    if is_page_wanted():
        return Response(render_template("refused.html", wanted=wanted), 403)
    challenge = f'{REALM}, error="insufficient_scope", scope="{" ".join(sorted(needs))}"'
    raise ProblemError(403, f"This needs the right {wanted}.", {"WWW-Authenticate": challenge})


def _unauthorized(detail: str, error: str = "") -> NoReturn:
    problem(401, detail, {"WWW-Authenticate": f'{REALM}, error="{error}"' if error else REALM})


def _keys_away() -> NoReturn:
    problem(503, "API keys cannot be checked now: the ledger does not answer.", {"Retry-After": RETRY_SECONDS})
