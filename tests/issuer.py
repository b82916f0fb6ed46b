"""A small OpenID Connect issuer for the tests: its documents, its keys, and tokens good and bad."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, Key, KeySet, RSAKey
from joserfc.jws import JWSRegistry

CLIENT = "hitledger"
RSA, OTHER_RSA = (RSAKey.generate_key(2048, {"kid": kid}) for kid in ("rsa", "other"))
EC = ECKey.generate_key("P-256", {"kid": "ec"})


class LocalIssuer:
    """Serves on a free port; a context. `claims` are what it says of everybody who signs in."""

    def __init__(self) -> None:
        self.keys: list[Key] = [RSA, EC]
        self.asked: list[str] = []
        """The paths that were asked for."""
        self.away = False
        self.claims: dict[str, Any] = {"sub": "ada", "preferred_username": "Ada", "roles": ["staff"]}
        self.token_changes: dict[str, Any] = {}
        """What its token endpoint does otherwise than it should: claims of the ID token."""
        self.document: dict[str, Any] = {}
        """What it says of itself otherwise than it should."""
        self.codes: dict[str, dict[str, str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}/realm"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a service that trusts it."""
        return {
            "auth": "oidc", "oidc_issuer": self.url, "oidc_client_id": CLIENT,
            "oidc_rights_claim": "roles", "oidc_rights": "staff=stats:read; ops=stats:read+test:run+ledger:admin",
        }  # fmt: skip

    def access(self, *, key: Key = RSA, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """Return an access token for a program with the role ops; claims that are None are left out."""
        now = int(time.time())
        whole = {
            "iss": self.url,
            "aud": CLIENT,
            "sub": "robot",
            "exp": now + 300,
            "iat": now,
            "roles": ["ops"],
        } | claims
        named = {"alg": "ES256" if key.key_type == "EC" else "RS256", "kid": key.kid, **(header or {})}
        kept = {name: value for name, value in named.items() if value is not None}
        # It signs whatever a test wants: the service must know better.
        anything = JWSRegistry(algorithms=list(JWSRegistry.algorithms), strict_check_header=False)
        left = {name: value for name, value in whole.items() if value is not None}
        return jwt.encode(kept, left, key, registry=anything)

    def authorize(self, url: str) -> str:
        """Do what a browser and a person do at the authorization endpoint; return where they are sent back to."""
        asked = dict(parse_qsl(urlsplit(url).query))
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        back = {"code": code, "state": asked["state"], "iss": self.url}
        return f"{asked['redirect_uri']}?{urlencode(back)}"

    def answer(self, path: str, form: dict[str, list[str]], authorization: str) -> tuple[int, Any]:
        """Return the status and the document of a path."""
        self.asked.append(path)
        if self.away:
            return 503, {}
        if path.endswith("/openid-configuration"):
            names = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "jwks",
                     "userinfo_endpoint": "userinfo", "end_session_endpoint": "end"}  # fmt: skip
            addresses = {name: f"{self.url}/{last}" for name, last in names.items()}
            return 200, {"issuer": self.url, **addresses, **self.document}
        if path.endswith("/jwks"):
            return 200, KeySet(self.keys).as_dict(private=False)
        if path.endswith("/userinfo"):
            return (200, {"sub": "ada", "roles": ["ops"]}) if authorization == "Bearer for-userinfo" else (401, {})
        return self._token({name: values[0] for name, values in form.items()})

    def _token(self, form: dict[str, str]) -> tuple[int, Any]:
        asked = self.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if asked is None or challenge != asked["code_challenge"] or form.get("redirect_uri") != asked["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        claims = {"nonce": asked["nonce"], **self.claims, **self.token_changes}
        id_token = self.access(**{"roles": None, **claims})
        return 200, {"access_token": "for-userinfo", "token_type": "Bearer", "id_token": id_token}


def _handler_of(issuer: LocalIssuer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers for the issuer."""

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            form = parse_qs(self.rfile.read(length).decode()) if length else {}
            status, document = issuer.answer(self.path, form, self.headers.get("Authorization", ""))
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name is the library's

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
