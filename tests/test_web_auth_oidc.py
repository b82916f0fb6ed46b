"""web.auth: OpenID Connect. Only good tokens are let in, and an issuer that is away locks nobody out."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from joserfc import jws
from joserfc.jwk import OctKey, RSAKey
from werkzeug.test import TestResponse

from hitledger.settings import Settings
from hitledger.web import create_app
from hitledger.web.auth.guard import IssuerUnavailableError
from hitledger.web.auth.issuer import FRESH_SECONDS, LEAST_SECONDS, STALE_SECONDS, Issuer, read_keys
from hitledger.web.auth.tokens import values_at
from tests.credentials import bearer
from tests.issuer import CLIENT, EC, OTHER_RSA, RSA, LocalIssuer

PAGE = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
OWN_PAGE = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings that say nothing of who is let in, whatever the whole suite runs with."""
    return replace(settings, auth=None, oidc_issuer=None)


@pytest.fixture(scope="module")
def one_issuer() -> Iterator[LocalIssuer]:
    """An issuer that the module's tests share."""
    with LocalIssuer() as issuer:
        yield issuer


@pytest.fixture
def issuer(one_issuer: LocalIssuer) -> LocalIssuer:
    """That issuer, as new."""
    fresh: dict[str, Any] = {
        "keys": [RSA, EC],
        "asked": [],
        "away": False,
        "token_changes": {},
        "document": {},
        "codes": {},
    }
    fresh["claims"] = {"sub": "ada", "preferred_username": "Ada", "roles": ["staff"]}
    for name, value in fresh.items():
        setattr(one_issuer, name, value)
    return one_issuer


@pytest.fixture
def app(settings: Settings, issuer: LocalIssuer) -> Iterator[Flask]:
    """A service that trusts the issuer."""
    app = create_app(replace(settings, public_url="http://localhost", **issuer.settings))
    yield app
    app.extensions["hitledger"].counter.stop()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client of it, with a jar for cookies."""
    return app.test_client()


def status_of(client: FlaskClient, token: str) -> int:
    """Return what reading the report is answered with."""
    return client.get("/stats/", headers=bearer(token)).status_code


def test_good_tokens_are_let_in(client: FlaskClient, issuer: LocalIssuer) -> None:
    """Of either key, for one audience of several, with a clock that is a little off, whatever type they say."""
    now = int(time.time())
    good = [
        issuer.access(), issuer.access(key=EC), issuer.access(aud=["other", CLIENT]), issuer.access(iat=None),
        issuer.access(exp=now - 10), issuer.access(nbf=now + 10), issuer.access(header={"typ": "at+jwt"}),
        issuer.access(header={"unknown": "x"}), issuer.access(sub=None, azp="cron"),
    ]  # fmt: skip
    assert [status_of(client, token) for token in good] == [200] * len(good)
    assert client.post("/test/0/", headers=bearer(good[0])).status_code == 422


def test_a_token_gives_what_its_claims_say(client: FlaskClient, issuer: LocalIssuer) -> None:
    """Of the right in question and no other: somebody without is known, and not let in."""
    staff = issuer.access(roles=["staff", 7])
    assert status_of(client, staff) == 200
    assert client.post("/test/0/", headers=bearer(staff)).status_code == 403
    for roles in (["strangers"], [], "staffx", None, {"staff": True}, ["stats:read"]):
        assert status_of(client, issuer.access(roles=roles)) == 403
    assert status_of(client, issuer.access(typ=["Bearer"])) == 200


def part(content: Any) -> str:
    """Return a part of a token."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(issuer: LocalIssuer) -> dict[str, str]:
    """Return tokens that must not be let in, by what is wrong with them."""
    now = int(time.time())
    head, body, signature = issuer.access().split(".")
    claims = {"iss": issuer.url, "aud": CLIENT, "sub": "eve", "exp": now + 300, "roles": ["ops"]}
    public = RSA.as_pem(private=False)
    shared = f"{part({'alg': 'HS256', 'kid': 'rsa'})}.{part(claims)}"
    imposter = RSAKey.generate_key(2048, {"kid": "rsa"})
    pointing: dict[str, dict[str, Any]] = {
        "a key of its own": {"jwk": imposter.as_dict(private=False)},
        "an address for keys": {"jku": f"{issuer.url}/eve"},
        "an address for a certificate": {"x5u": f"{issuer.url}/eve"},
    }
    return {
        "alg none": f"{part({'alg': 'none'})}.{part(claims)}.",
        "alg None, with a signature": f"{part({'alg': 'None', 'kid': 'rsa'})}.{body}.{signature}",
        "no alg": f"{part({'kid': 'rsa'})}.{body}.{signature}",
        "the public key as a shared secret": f"{shared}.{part(hmac.digest(public, shared.encode(), hashlib.sha256))}",
        "an empty shared secret": f"{shared}.{part(hmac.digest(b'', shared.encode(), hashlib.sha256))}",
        "no signature": f"{head}.{body}.",
        "a changed body": f"{head}.{part({**claims, 'roles': ['ops', 'staff']})}.{signature}",
        "a changed signature": f"{head}.{body}.{part(bytes(256))}",
        "another key of the same name": issuer.access(key=imposter),
        "a swapped key": issuer.access(key=OTHER_RSA, header={"kid": "rsa"}),
        "an unknown key": issuer.access(key=OTHER_RSA),
        "no key named, of several": issuer.access(header={"kid": None}),
        "a key with a path for a name": issuer.access(header={"kid": "../../../../dev/null"}),
        "a key with SQL for a name": issuer.access(header={"kid": "rsa' UNION SELECT 'x"}),
        "the other algorithm's key": issuer.access(key=RSA, header={"kid": "ec"}),
        "an algorithm that is not allowed": issuer.access(header={"alg": "RS512"}),
        "over": issuer.access(exp=now - 60),
        "without end": issuer.access(exp=None),
        "an end that is no number": issuer.access(exp="tomorrow"),
        "not good yet": issuer.access(nbf=now + 120),
        "made in the future": issuer.access(iat=now + 120),
        "another audience": issuer.access(aud="other"),
        "no audience": issuer.access(aud=None),
        "part of the audience": issuer.access(aud=CLIENT + "x"),
        "another issuer": issuer.access(iss="https://evil.example"),
        "an issuer with a slash more": issuer.access(iss=issuer.url + "/"),
        "no issuer": issuer.access(iss=None),
        "an ID token": issuer.access(nonce="x"),
        "a logout token": issuer.access(events={"x": {}}),
        "a logout token by its type": issuer.access(header={"typ": "logout+jwt"}),
        "Keycloak's ID token": issuer.access(typ="ID"),
        "a demand of an extension": issuer.access(header={"crit": ["b64"], "b64": True}),
        "no object": jws.serialize_compact({"alg": "RS256", "kid": "rsa"}, "[]", RSA),
        "nested as deep as can be": f"{part(b'[' * 9000)}.{body}.{signature}",
        "five parts": f"{head}.{body}.{signature}.{body}.{signature}",
        "one part": head,
        "no base64": f"{head}.!!!.{signature}",
        **{what: issuer.access(key=imposter, header=header) for what, header in pointing.items()},
    }


def test_bad_tokens_are_not(client: FlaskClient, issuer: LocalIssuer) -> None:
    """Some forty ways of being wrong: each is a 401 that says so, none a crash, and none leads anywhere."""
    for what, token in forged(issuer).items():
        answer = client.get("/stats/", headers=bearer(token))
        assert answer.status_code == 401, what
        assert answer.mimetype == "application/problem+json"
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    assert set(issuer.asked) == {"/realm/.well-known/openid-configuration", "/realm/jwks"}


def test_a_published_secret_is_no_key() -> None:
    """A symmetric key in the issuer's set, one for encryption or one that is broken signs nothing."""
    usable = RSA.as_dict(private=False)
    unusable = [
        OctKey.generate_key(256).as_dict(private=True),
        {**usable, "use": "enc"},
        {"kty": "RSA"},
        {"kty": "?"},
        7,
    ]
    assert len(read_keys({"keys": [*unusable, usable]})) == 1
    documents: list[Any] = [{"keys": unusable}, {"keys": 7}, [], {}]
    for document in documents:
        with pytest.raises(ValueError, match="no key"):
            read_keys(document)


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 1e6

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_a_new_key_is_found(issuer: LocalIssuer) -> None:
    """A token with a key that nobody knew makes one look; the next unknown one waits its time."""
    clock = Clock()
    seen = Issuer(issuer.url, clock=clock)
    assert [key.kid for key in seen.keys_for("rsa")] == ["rsa"]
    issuer.keys = [OTHER_RSA]
    assert seen.keys_for("other") == []
    clock.now += LEAST_SECONDS
    assert [key.kid for key in seen.keys_for("other")] == ["other"]
    assert seen.keys_for("rsa") == []
    assert issuer.asked.count("/realm/jwks") == 2


def test_a_flood_of_unknown_keys_makes_one_look(issuer: LocalIssuer) -> None:
    """Ten thousand tokens with as many keys, from several threads: one look in ten seconds."""
    clock = Clock()
    seen = Issuer(issuer.url, clock=clock)
    seen.known()
    clock.now += LEAST_SECONDS
    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(lambda number: seen.keys_for(f"key-{number}"), range(10_000)))
    assert issuer.asked.count("/realm/jwks") == 2


def test_many_threads_make_one_first_look(issuer: LocalIssuer) -> None:
    """Those who come while one looks wait for what it finds."""
    seen = Issuer(issuer.url)
    together = threading.Barrier(8)

    def ask(_: int) -> int:
        together.wait(10)
        return len(seen.keys_for("rsa"))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [1] * 8
    assert issuer.asked.count("/realm/jwks") == 1


def test_an_issuer_that_is_away_locks_nobody_out(settings: Settings, issuer: LocalIssuer) -> None:
    """Its keys stay good for hours; after a day without it nobody can tell any more, and it is asked seldom."""
    clock = Clock()
    seen = Issuer(issuer.url, clock=clock)
    assert seen.keys_for("rsa")
    issuer.away = True
    issuer.asked.clear()
    for _ in range(100):
        clock.now += FRESH_SECONDS / 50
        assert seen.keys_for("rsa")
    assert 1 <= len(issuer.asked) <= 51
    clock.now += STALE_SECONDS
    with pytest.raises(IssuerUnavailableError):
        seen.keys_for("rsa")
    app = create_app(replace(settings, **issuer.settings))
    answer = app.test_client().get("/stats/", headers=bearer(issuer.access()))
    assert (answer.status_code, answer.mimetype) == (503, "application/problem+json")
    assert answer.headers["Retry-After"]
    assert app.test_client().get("/auth/sign-in").status_code == 503
    app.extensions["hitledger"].counter.stop()


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://evil.example"},
        {"jwks_uri": "http://evil.example/keys"},
        {"jwks_uri": 7},
        {"jwks_uri": None},
        {"jwks_uri": "https://["},
        {"jwks_uri": "https://id.example:port/"},
    ],
)
def test_an_issuer_that_is_another_is_not_believed(issuer: LocalIssuer, change: dict[str, Any]) -> None:
    """A document that names another issuer, or keys that come without TLS: as good as none."""
    _, document = issuer.answer("/openid-configuration", {}, "")
    asked: list[str] = []

    def fetch(url: str) -> Any:
        asked.append(url)
        return {**document, **change}

    seen = Issuer(issuer.url, fetch, Clock())
    with pytest.raises(IssuerUnavailableError):
        seen.known()
    assert len(asked) == 1


@pytest.mark.parametrize("error", [OSError("no certificates there"), RecursionError(), requests.ConnectionError()])
def test_an_issuer_that_cannot_be_asked(issuer: LocalIssuer, error: Exception) -> None:
    """Whatever keeps us from asking it, a wrong REQUESTS_CA_BUNDLE too, is as good as its being away."""

    def fetch(_url: str) -> Any:
        raise error

    with pytest.raises(IssuerUnavailableError):
        Issuer(issuer.url, fetch, Clock()).known()


@pytest.mark.parametrize("endpoint", ["https://[", "https://id.example:port/", 7, "javascript:alert(1)"])
def test_addresses_that_are_none_lead_nowhere(client: FlaskClient, issuer: LocalIssuer, endpoint: Any) -> None:
    """An issuer that names no address for signing in or out is told to people, and leads them nowhere."""
    wrong = {"authorization_endpoint": endpoint, "end_session_endpoint": endpoint}
    issuer.document = {**wrong, "token_endpoint_auth_methods_supported": None}
    assert client.get("/auth/sign-in").status_code == 503
    assert client.post("/auth/sign-out", headers=OWN_PAGE).status_code == 200


def test_an_issuer_may_leave_out_how_services_say_who_they_are(client: FlaskClient, issuer: LocalIssuer) -> None:
    """Then it is the way that OpenID Connect names as the default."""
    issuer.document = {"token_endpoint_auth_methods_supported": None}
    assert finish(client, issuer.authorize(begin(client))).status_code == 302


def begin(client: FlaskClient, path: str = "/") -> str:
    """Begin to sign in and return where the browser is sent."""
    answer = client.get("/auth/sign-in", query_string={"next": path})
    assert answer.status_code == 302
    return answer.headers["Location"]


def finish(client: FlaskClient, back: str) -> TestResponse:
    """Come back from the issuer."""
    parts = urlsplit(back)
    assert parts.path == "/auth/callback"
    return client.get(f"{parts.path}?{parts.query}", headers={"Sec-Fetch-Site": "cross-site"})


def test_a_person_signs_in_and_out(client: FlaskClient, issuer: LocalIssuer) -> None:
    """To the issuer, back to the page that was wanted, shown by name, with the rights of the claims; and out again."""
    answer = client.get("/?search=x", headers=PAGE)
    assert answer.headers["Location"] == "/auth/sign-in?next=%2F%3Fsearch%3Dx"
    url = begin(client, "/?search=x")
    assert url.startswith(f"{issuer.url}/authorize?")
    assert dict(parse_qsl(urlsplit(url).query))["redirect_uri"] == "http://localhost/auth/callback"
    answer = finish(client, issuer.authorize(url))
    assert (answer.status_code, answer.headers["Location"]) == (302, "/?search=x")
    page = client.get("/", headers=PAGE).get_data(as_text=True)
    assert ">Ada<" in page
    assert client.post("/test/0/", headers=OWN_PAGE).status_code == 403
    page = client.post("/auth/sign-out", headers=OWN_PAGE).get_data(as_text=True)
    assert f"{issuer.url}/end?client_id=hitledger" in page
    assert "post_logout_redirect_uri=http%3A%2F%2Flocalhost%2Fauth%2Fsigned-out" in page
    assert "id_token_hint=ey" in page
    assert client.get("/stats/").status_code == 401
    assert client.get("/auth/signed-out").status_code == 200


def test_claims_may_be_told_elsewhere(client: FlaskClient, issuer: LocalIssuer) -> None:
    """What the ID token does not say of somebody's rights is asked of the userinfo endpoint."""
    del issuer.claims["roles"]
    finish(client, issuer.authorize(begin(client)))
    assert client.post("/test/0/", headers=OWN_PAGE).status_code == 422
    issuer.claims["sub"] = "eve"
    finish(client, issuer.authorize(begin(client)))
    assert client.get("/stats/").status_code == 403


def test_an_answer_is_taken_once_and_by_who_asked(app: Flask, issuer: LocalIssuer) -> None:
    """Another browser cannot use it, nor this one again; two tabs may sign in at once."""
    client, other = app.test_client(), app.test_client()
    back = issuer.authorize(begin(client))
    assert finish(other, back).status_code == 400
    second = issuer.authorize(begin(client, "/runs/"))
    assert finish(client, back).status_code == 302
    assert finish(client, back).status_code == 400
    assert other.get("/stats/").status_code == 401
    assert finish(client, second).status_code == 400  # signing in begins anew: what was left open is over


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"state": "other"}, 400), ({"state": ""}, 400), ({"code": "other"}, 403), ({"code": None}, 403),
        ({"iss": "https://evil.example"}, 403), ({"error": "access_denied"}, 403),
        ({"error": "<script>alert(1)</script>"}, 403),
    ],
)  # fmt: skip
def test_wrong_answers_sign_nobody_in(
    client: FlaskClient, issuer: LocalIssuer, change: dict[str, str | None], status: int
) -> None:
    """Of another flow, another issuer, with another code, or a refusal: a page that says so, and no sign-in."""
    parts = urlsplit(issuer.authorize(begin(client)))
    given = {**dict(parse_qsl(parts.query)), **change}
    answer = client.get("/auth/callback", query_string={name: text for name, text in given.items() if text is not None})
    assert answer.status_code == status
    assert answer.mimetype == "text/html"
    assert "<script>alert" not in answer.get_data(as_text=True)
    assert client.get("/stats/").status_code == 401


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": "other"}, {"nonce": None}, {"aud": "other"}, {"iss": "https://evil.example"}, {"exp": 1},
        {"azp": "other"}, {"sub": None}, {"sub": ["ada"]}, {"key": OTHER_RSA}, {"header": {"alg": "RS512"}},
    ],
)  # fmt: skip
def test_wrong_id_tokens_sign_nobody_in(client: FlaskClient, issuer: LocalIssuer, change: dict[str, Any]) -> None:
    """The ID token is checked as every token is, and must answer this very request."""
    issuer.token_changes = change
    assert finish(client, issuer.authorize(begin(client))).status_code == 403
    assert client.get("/stats/").status_code == 401


def test_a_sign_in_ends(client: FlaskClient, issuer: LocalIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the hours that the settings say, whatever the browser does with its cookie."""
    finish(client, issuer.authorize(begin(client)))
    assert client.get("/stats/").status_code == 200
    now = time.time()
    monkeypatch.setattr("hitledger.web.auth.sessions.time.time", lambda: now + 8 * 3600 - 60)
    assert client.get("/stats/").status_code == 200
    monkeypatch.setattr("hitledger.web.auth.sessions.time.time", lambda: now + 8 * 3600 + 1)
    assert client.get("/stats/").status_code == 401


def test_a_cookie_is_never_too_large(client: FlaskClient, issuer: LocalIssuer) -> None:
    """Long names, long tokens, long paths and two tabs: browsers drop cookies over 4,096 bytes."""
    issuer.claims |= {"preferred_username": "\u00e9" * 500, "groups": [f"group-{number}" for number in range(500)]}
    finish(client, issuer.authorize(begin(client)))
    for _ in range(3):
        answer = client.get("/auth/sign-in", query_string={"next": "/?search=" + hashlib.sha512(b"x").hexdigest() * 6})
        assert len(answer.headers["Set-Cookie"]) < 4096
    assert client.get("/stats/").status_code == 200


def test_where_claims_are_found() -> None:
    """By name, by path, in a list or in words; a name that holds dots is a name first."""
    claims: dict[str, Any] = {
        "scope": "a b", "groups": ["x", 1], "realm_access": {"roles": ["r"]}, "https://x.example/roles": ["dotted"],
    }  # fmt: skip
    found = [values_at(claims, path) for path in ("scope", "groups", "realm_access.roles", "https://x.example/roles")]
    assert found == [["a", "b"], ["x"], ["r"], ["dotted"]]
    assert [values_at(claims, path) for path in ("none", "scope.x", "realm_access", "groups.0")] == [[]] * 4
