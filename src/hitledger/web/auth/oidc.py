"""Signing in at the issuer: the authorization code flow with PKCE, by Authlib.

`/auth/sign-in` sends the browser to the issuer and keeps, in the cookie, what the answer must
fit: state, nonce and PKCE's verifier, each of 256 random bits and good for one answer within ten
minutes. `/auth/callback` takes the answer, fetches the tokens itself and checks the ID token as
every other token is. No token is kept but the ID token, which a provider wants to see again
when somebody signs out.
"""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from flask import Blueprint, Response, redirect, request, session
from werkzeug.wrappers import Response as AnyResponse

from hitledger.settings import Settings
from hitledger.web.auth.guard import InvalidTokenError, IssuerUnavailableError
from hitledger.web.auth.issuer import ANSWER_SECONDS, Issuer, Known
from hitledger.web.auth.pages import page, safe_path
from hitledger.web.auth.sessions import begin
from hitledger.web.auth.tokens import TokenChecker, values_at

log = logging.getLogger("hitledger.auth")

FLOW_SECONDS = 600
MOST_FLOWS = 2
"""Sign-ins that one browser may have begun at once: its tabs share a cookie, which holds 4 KB."""
MOST_ID_TOKEN = 1800
"""A longer one is not kept; the provider then asks before it signs somebody out."""
AWAY = "The sign-in service does not answer now. Try again in a moment."


@dataclass(frozen=True)
class Flow:
    """A sign-in that has begun."""

    verifier: str
    nonce: str
    path: str
    began: int


def oidc_pages(settings: Settings, issuer: Issuer, tokens: TokenChecker) -> Blueprint:
    """Return the pages by which people come in with the issuer's word."""
    blueprint = Blueprint("auth", __name__, url_prefix="/auth")
    sign_in = SignIn(settings, issuer, tokens)
    blueprint.add_url_rule("/sign-in", "sign_in", sign_in.begin)
    blueprint.add_url_rule("/callback", "callback", sign_in.finish)
    blueprint.add_url_rule("/sign-out", "sign_out", sign_in.leave, methods=["POST"])
    blueprint.add_url_rule("/signed-out", "signed_out", lambda: page(out=True))
    return blueprint


class SignIn:
    """The views."""

    def __init__(self, settings: Settings, issuer: Issuer, tokens: TokenChecker) -> None:
        self._settings = settings
        self._secret = settings.secret("oidc_client_secret")
        self._issuer = issuer
        self._tokens = tokens
        # Never from the request: whoever chooses its Host would choose where codes are sent.
        self._own = settings.public_url or settings.own_url

    def begin(self) -> AnyResponse:
        """Send the browser to the issuer."""
        path = safe_path(request.args.get("next"))
        try:
            known = self._issuer.known()
        except IssuerUnavailableError:
            return page(503, failed=AWAY, next=path)
        endpoint = known.endpoint("authorization_endpoint")
        if endpoint is None:
            return page(503, failed="The issuer lets nobody sign in: it has no authorization_endpoint.", next=path)
        state = secrets.token_urlsafe(32)
        flow = Flow(secrets.token_urlsafe(32), secrets.token_urlsafe(32), path, int(time.time()))
        with self._client(known) as client:
            url, _ = client.create_authorization_url(
                endpoint, state=state, code_verifier=flow.verifier, nonce=flow.nonce
            )
        kept = list(session.get("flows", {}).items())[-(MOST_FLOWS - 1) :]
        session["flows"] = {**dict(kept), state: [flow.verifier, flow.nonce, flow.path, flow.began]}
        session.permanent = True
        return redirect(url, 302, Response)

    def finish(self) -> AnyResponse:
        """Take the issuer's answer, and sign somebody in if it is one to a request of this browser's."""
        flow = self._flow_of(request.args.get("state", ""))
        if flow is None:
            return page(400, failed="This sign-in was begun in another browser, or too long ago.", next="/")
        try:
            known = self._issuer.known()
            if "error" in request.args or "code" not in request.args or not self._is_ours(known):
                return page(403, failed="The sign-in service has not signed you in.", next=flow.path)
            claims, id_token = self._fetch(known, flow, request.args["code"])
        except (IssuerUnavailableError, OSError):  # of which requests' errors are
            return page(503, failed=AWAY, next=flow.path)
        except (InvalidTokenError, AuthlibBaseError, ValueError) as error:
            log.warning("a sign-in failed: %s", error)
            return page(403, failed="The sign-in service's answer is not good.", next=flow.path)
        who = self._tokens.principal(claims)
        content: dict[str, object] = {"id": who.id, "name": who.name, "rights": sorted(who.rights)}
        until = int(time.time()) + self._settings.session_hours * 3600
        begin(content | {"until": until} | ({"id_token": id_token} if len(id_token) <= MOST_ID_TOKEN else {}))
        return redirect(flow.path, 302, Response)

    def leave(self) -> Response:
        """Sign somebody out here, and send them on to where the issuer does (OpenID Connect RP-Initiated Logout)."""
        hint = session.get("id_token")
        session.clear()
        try:
            endpoint = self._issuer.known().endpoint("end_session_endpoint")
        except IssuerUnavailableError:
            endpoint = None
        if endpoint is None:
            return page(out=True)
        parameters = {
            "client_id": self._settings.oidc_client_id,
            "post_logout_redirect_uri": f"{self._own}/auth/signed-out",
        }
        query = urlencode(parameters | ({"id_token_hint": hint} if hint else {}))
        # As a page that goes on by itself: a form's answer may not redirect elsewhere (form-action).
        return page(out=True, onward=f"{endpoint}{'&' if '?' in endpoint else '?'}{query}")

    def _client(self, known: Known) -> OAuth2Session:
        """Return Authlib's client, which says who we are in a way that the issuer takes."""
        ways = known.metadata.get("token_endpoint_auth_methods_supported")
        ways = ways if isinstance(ways, list) else ["client_secret_basic"]
        way = next((each for each in ("client_secret_basic", "client_secret_post") if each in ways), None)
        return OAuth2Session(
            self._settings.oidc_client_id,
            self._secret,
            token_endpoint_auth_method=way if self._secret else "none",
            scope=self._settings.oidc_scopes,
            redirect_uri=f"{self._own}/auth/callback",
            code_challenge_method="S256",
            default_timeout=ANSWER_SECONDS,
        )

    def _flow_of(self, state: str) -> Flow | None:
        """Return the flow that a state belongs to; each once."""
        flows = session.get("flows", {})
        found = flows.get(state)
        session["flows"] = {other: flow for other, flow in flows.items() if other != state}
        flow = Flow(*found) if found else None
        return flow if flow and time.time() - flow.began <= FLOW_SECONDS else None

    def _is_ours(self, known: Known) -> bool:
        """Tell whether the answer is this issuer's and no other's (RFC 9207)."""
        said = request.args.get("iss")
        if said is None:
            return not known.metadata.get("authorization_response_iss_parameter_supported", False)
        return said == self._settings.oidc_issuer

    def _fetch(self, known: Known, flow: Flow, code: str) -> tuple[dict[str, Any], str]:
        """Return the claims about whoever the code stands for, and the ID token that makes them."""
        endpoint = known.endpoint("token_endpoint")
        if endpoint is None:
            raise InvalidTokenError("the issuer has no token_endpoint with https.")
        with self._client(known) as client:
            answer = client.fetch_token(
                endpoint, grant_type="authorization_code", code=code, code_verifier=flow.verifier, allow_redirects=False
            )
            id_token = str(answer.get("id_token", ""))
            claims = self._tokens.identity(id_token, flow.nonce)
            claims.setdefault("scope", answer.get("scope", self._settings.oidc_scopes))
            more = known.endpoint("userinfo_endpoint")
            if more and not values_at(claims, self._settings.oidc_rights_claim):
                claims = self._with_userinfo(client, more, claims)
        return claims, id_token

    def _with_userinfo(self, client: OAuth2Session, endpoint: str, claims: dict[str, Any]) -> dict[str, Any]:
        """Return the claims and those that the issuer tells of the same person there."""
        answer = client.get(endpoint, allow_redirects=False)
        if answer.status_code != requests.codes.ok or "json" not in answer.headers.get("Content-Type", ""):
            return claims
        found = answer.json()
        # Whoever the answer is about must be whom the ID token is about (OpenID Connect Core, 5.3.2).
        return {**found, **claims} if isinstance(found, dict) and found.get("sub") == claims["sub"] else claims
