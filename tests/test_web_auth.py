"""web.auth: nobody does what they may not, whatever they send."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from hitledger.apikeys import ApiKeys
from hitledger.cli.remote import ServicePlace
from hitledger.errors import ServiceError, SettingsError
from hitledger.ledger import LedgerStore
from hitledger.rights import RIGHTS
from hitledger.settings import Settings
from hitledger.web import create_app
from hitledger.web.auth.endpoints import NEEDS
from hitledger.web.auth.pages import safe_path
from hitledger.web.auth.sessions import signing_keys
from tests.credentials import WITHOUT_SIGN_IN, api_key, bearer

PAGE = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
OWN_PAGE = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings that say nothing of who is let in, whatever the whole suite runs with."""
    return replace(settings, **WITHOUT_SIGN_IN)


def app_of(settings: Settings) -> Iterator[Flask]:
    """Yield an application, and end what runs behind it."""
    app = create_app(settings)
    yield app
    app.extensions["hitledger"].counter.stop()


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    """A service that asks for keys."""
    yield from app_of(replace(settings, auth="keys"))


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client of it, with a jar for cookies."""
    return app.test_client()


@pytest.fixture
def open_client(settings: Settings) -> Iterator[FlaskClient]:
    """A client of a service that lets everybody in."""
    for app in app_of(settings):
        yield app.test_client()


def problem_of(answer: TestResponse, status: int) -> dict[str, Any]:
    """Return the problem that an answer is."""
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
    content: dict[str, Any] = json.loads(answer.get_data())
    return content


def sign_in(client: FlaskClient, key: str, path: str = "/") -> TestResponse:
    """Sign in with a key, as the page's form does."""
    return client.post("/auth/key", data={"key": key, "next": path}, headers=OWN_PAGE)


def test_every_endpoint_says_what_it_needs(app: Flask) -> None:
    """No endpoint is without a line in the table, so that none is open, or shut, because somebody forgot it."""
    there = {rule.endpoint for rule in app.url_map.iter_rules()}
    assert there - NEEDS.keys() == set()
    assert all(needs <= RIGHTS.keys() for needs in NEEDS.values())


def test_an_endpoint_that_says_nothing_lets_nobody_in(app: Flask, store: LedgerStore) -> None:
    """Forgotten in the table means shut, with all rights too."""
    app.add_url_rule("/new", "new", lambda: "secret")
    answer = app.test_client().get("/new", headers=bearer(api_key(store)))
    assert "secret" not in json.dumps(problem_of(answer, 403))


WAYS = [
    ("GET", "/api/one/", set()), ("GET", "/livez", set()), ("GET", "/readyz", set()), ("GET", "/metrics", set()),
    ("GET", "/openapi.json", set()), ("GET", "/docs/", set()), ("GET", "/static/dashboard.css", set()),
    ("GET", "/auth/sign-in", set()), ("GET", "/nothing", set()),
    ("GET", "/stats/", {"stats:read"}), ("HEAD", "/stats/", {"stats:read"}),
    ("GET", "/stats/url?url=/a", {"stats:read"}), ("GET", "/stats/export", {"stats:read"}),
    ("GET", "/", {"stats:read"}), ("GET", "/live/", {"stats:read"}), ("GET", "/url?url=/a", {"stats:read"}),
    ("GET", "/runs/", {"stats:read", "test:run"}), ("GET", "/test/runs/", {"stats:read", "test:run"}),
    ("GET", "/test/runs/x/", {"stats:read", "test:run"}), ("GET", "/live/runs/", {"stats:read", "test:run"}),
    ("GET", "/live/url?url=/a", {"stats:read"}), ("GET", "/stats/history", {"stats:read"}),
    ("GET", "/stats/series", {"stats:read"}),
    ("POST", "/runs/", {"test:run"}), ("POST", "/runs/x/cancel/", {"test:run"}),
    ("POST", "/test/0/", {"test:run"}), ("DELETE", "/test/runs/x/", {"test:run"}),
]  # fmt: skip


def test_who_may_do_what(client: FlaskClient, store: LedgerStore) -> None:
    """Without a key 401, with each single right 403 or in: for every endpoint, exactly as the table says."""
    keys = {right: api_key(store, right) for right in RIGHTS}
    for method, path, needs in WAYS:
        with client.open(path, method=method) as answer:
            assert (answer.status_code == 401) == bool(needs), path
            assert not needs or answer.headers["WWW-Authenticate"] == 'Bearer realm="hitledger"'
        for right, key in keys.items():
            with client.open(path, method=method, headers=bearer(key)) as answer:
                assert (answer.status_code == 403) == bool(needs and right not in needs), (path, right)
                challenge = answer.headers.get("WWW-Authenticate", "")
                assert ('error="insufficient_scope"' in challenge) == (answer.status_code == 403)


def test_what_is_no_key_is_a_401(client: FlaskClient) -> None:
    """Anything else in the header is refused with a challenge, and not repeated."""
    long = "Bearer " + "x" * 20_000
    for header in ("", "Bearer", "Bearer ", "Basic dTpw", "hl_x", "Bearer hl_x", "Bearer a.b.c", "Bearer \xe9", long):
        answer = client.get("/stats/", headers={"Authorization": header})
        content = problem_of(answer, 401)
        assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="hitledger", error="')
        assert header.strip() in ("", "Bearer") or header not in json.dumps(content)


def test_a_bad_key_is_not_made_good_by_a_cookie(client: FlaskClient, store: LedgerStore) -> None:
    """Who sends a header means it."""
    sign_in(client, api_key(store))
    assert client.get("/stats/").status_code == 200
    assert client.get("/stats/", headers=bearer("hl_x")).status_code == 401


def test_a_preflight_is_answered(settings: Settings) -> None:
    """A browser asks without credentials whether a page may ask with them, and is told that it may."""
    for app in app_of(replace(settings, auth="keys", cors_origins=("https://there.example",))):
        answer = app.test_client().options("/stats/", headers={"Origin": "https://there.example"})
        assert answer.status_code == 200
        assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]


def test_keys_while_the_ledger_is_away(settings: Settings, store: LedgerStore) -> None:
    """Nobody can tell: 503 with a time to come again, and /api/ is answered as ever."""
    key = api_key(store)
    for app in app_of(replace(settings, auth="keys", redis_url="redis://sesame:sesame@127.0.0.1:1")):
        answer = app.test_client().get("/stats/", headers=bearer(key))
        assert "sesame" not in json.dumps(problem_of(answer, 503))
        assert answer.headers["Retry-After"]
        assert app.test_client().get("/api/x/", headers=bearer(key)).status_code == 200


def test_the_command_line_shows_a_key(app: Flask, store: LedgerStore) -> None:
    """`hitledger top --url` comes in with the key of its settings, and without one is told what is wanted."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.port}"
    assert ServicePlace(url, api_key(store, "stats:read")).look({}).rows is not None
    with pytest.raises(ServiceError, match="stats:read"):
        ServicePlace(url).look({})
    server.shutdown()
    thread.join()
    server.server_close()


def test_people_are_sent_to_sign_in_and_back(client: FlaskClient, store: LedgerStore) -> None:
    """A browser without a sign-in goes to the page for it, and from there to what it wanted."""
    answer = client.get("/?search=a%20b", headers=PAGE)
    assert answer.status_code == 302
    location = answer.headers["Location"]
    assert location == "/auth/sign-in?next=%2F%3Fsearch%3Da%2520b"
    page = client.get(location).get_data(as_text=True)
    assert 'value="/?search=a%20b"' in page
    answer = sign_in(client, api_key(store, "stats:read"), "/?search=a%20b")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/?search=a%20b")
    page = client.get("/", headers=PAGE).get_data(as_text=True)
    assert "a test" in page
    assert "Sign out" in page


def test_a_page_that_may_not_be_seen(client: FlaskClient, store: LedgerStore) -> None:
    """Somebody signed in is told which right it takes, on a page, and may sign out there."""
    sign_in(client, api_key(store, "test:run"))
    answer = client.get("/", headers=PAGE)
    assert (answer.status_code, answer.mimetype) == (403, "text/html")
    assert "stats:read" in answer.get_data(as_text=True)
    assert client.get("/runs/", headers=PAGE).status_code == 200


def test_pages_offer_what_one_may_do(client: FlaskClient, store: LedgerStore) -> None:
    """Who may start test runs finds the form for it; who may not does not."""
    sign_in(client, api_key(store, "stats:read"))
    assert 'id="try"' not in client.get("/runs/", headers=PAGE).get_data(as_text=True)
    sign_in(client, api_key(store, "stats:read", "test:run"))
    assert 'id="try"' in client.get("/runs/", headers=PAGE).get_data(as_text=True)


def test_a_wrong_key_signs_nobody_in(client: FlaskClient) -> None:
    """The form comes again, with what is wrong, and no cookie."""
    answer = sign_in(client, "hl_wrong")
    assert answer.status_code == 401
    assert "hl_wrong" not in answer.get_data(as_text=True)
    assert "Set-Cookie" not in answer.headers


def test_the_cookie_is_dressed_warmly(app: Flask, settings: Settings, store: LedgerStore) -> None:
    """HttpOnly and SameSite always; where browsers come by https, Secure and bound to this host."""
    cookie = sign_in(app.test_client(), api_key(store)).headers["Set-Cookie"]
    assert cookie.startswith("hitledger=")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    for other in app_of(replace(settings, auth="keys", public_url="https://counts.example")):
        cookie = sign_in(other.test_client(), api_key(store)).headers["Set-Cookie"]
        assert cookie.startswith("__Host-hitledger=")
        assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
        assert "Domain" not in cookie


def test_signing_out(client: FlaskClient, store: LedgerStore) -> None:
    """Afterwards the browser is nobody again."""
    sign_in(client, api_key(store))
    assert "signed out" in client.post("/auth/sign-out", headers=OWN_PAGE).get_data(as_text=True)
    assert client.get("/stats/").status_code == 401


def test_a_revoked_key_ends_its_sign_ins(app: Flask, client: FlaskClient, store: LedgerStore) -> None:
    """Who came in with a key goes with it."""
    whole = api_key(store)
    sign_in(client, whole)
    ApiKeys(store).revoke(whole.split("_")[1])
    for function in app.before_request_funcs[None]:
        guard = getattr(function, "__self__", None)
        if guard is not None and hasattr(guard, "_keys"):
            guard._keys._known.clear()
    assert client.get("/stats/").status_code == 401


def test_a_cookie_that_was_changed_is_none(client: FlaskClient, store: LedgerStore) -> None:
    """Nobody but this service signs people in."""
    sign_in(client, api_key(store))
    cookie = client.get_cookie("hitledger")
    assert cookie
    other = "A" if cookie.value[10] != "A" else "B"
    client.set_cookie("hitledger", cookie.value[:10] + other + cookie.value[11:])
    assert client.get("/stats/").status_code == 401


CROSS_SITE = [
    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "", "Origin": "null"},
    {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost.evil.example"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, {"Origin": "http://["}, {"Origin": ""},
]  # fmt: skip


@pytest.mark.parametrize("headers", CROSS_SITE)
def test_other_sites_change_nothing(
    client: FlaskClient, open_client: FlaskClient, store: LedgerStore, headers: dict[str, str]
) -> None:
    """A page from elsewhere can neither start a run nor sign out, with sign-in or without: not even on a laptop."""
    problem_of(open_client.post("/test/1/", headers=headers), 403)
    problem_of(open_client.delete("/test/runs/x/", headers=headers), 403)
    sign_in(client, api_key(store))
    problem_of(client.post("/test/1/", headers=headers), 403)
    problem_of(client.post("/auth/sign-out", headers=headers), 403)
    assert client.get("/stats/", headers=headers).status_code == 200


def test_own_pages_and_programs_change_things(
    client: FlaskClient, open_client: FlaskClient, store: LedgerStore
) -> None:
    """What our own pages and command-line programs ask for gets as far as n, which is wrong here."""
    for headers in ({}, OWN_PAGE, {"Sec-Fetch-Site": "none"}, {"Origin": "http://localhost"}):
        problem_of(open_client.post("/test/0/", headers=headers), 422)
        problem_of(client.post("/test/0/", headers=bearer(api_key(store)) | headers), 422)


def test_a_cookie_without_a_browser_changes_nothing(client: FlaskClient, store: LedgerStore) -> None:
    """A request with a cookie that does not say where it comes from is not trusted to be the user's own."""
    sign_in(client, api_key(store))
    problem_of(client.post("/test/0/"), 403)
    problem_of(client.post("/test/0/", headers=OWN_PAGE), 422)


@pytest.mark.parametrize(
    "text",
    [
        "https://evil.example/", "//evil.example/", "/\\evil.example", "\\\\evil.example", "/\t/evil.example",
        "javascript:alert(1)", "evil.example", "", None, "/auth/sign-out", "/a b", "/\r\nA: b", "/" + "x" * 2000,
        "///evil.example", "http:/evil.example", "/\u2044evil.example",
    ],
)  # fmt: skip
def test_signing_in_leads_nowhere_else(text: str | None) -> None:
    """Whatever could lead to another site, or in circles, leads to the first page."""
    assert safe_path(text) == "/"


@pytest.mark.parametrize("text", ["/", "/?search=%2Fapi", "/url?url=/a//b&by=hour", "/runs/"])
def test_signing_in_leads_back(text: str) -> None:
    """A path of this service is where one goes on."""
    assert safe_path(text) == text


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"host": "0.0.0.0"}, "let anybody in"),
        ({"host": "192.0.2.1"}, "let anybody in"),
        ({"host": "::"}, "let anybody in"),
        ({"host": "localhost.evil.example"}, "let anybody in"),
        ({"oidc_issuer": "https://id.example"}, "HITLEDGER_AUTH is not"),
        ({"auth": "oidc"}, "needs an issuer"),
        ({"auth": "oidc", "oidc_issuer": "https://id.example"}, "needs an issuer"),
        ({"auth": "keys", "session_key": "x" * 32, "session_key_file": Path("/x")}, "both set"),
        ({"auth": "keys", "session_key_file": Path("/nothing/there")}, "cannot be read"),
    ],
)
def test_no_start_without_a_decision(settings: Settings, given: dict[str, Any], wrong: str) -> None:
    """Where others could come in, somebody must have said who may; and what was said must make sense."""
    with pytest.raises(SettingsError, match=wrong):
        create_app(replace(settings, **given))


@pytest.mark.parametrize("given", [{}, {"host": "localhost"}, {"host": "::1"}, {"host": "0.0.0.0", "auth": "none"}])
def test_nobody_is_asked_on_a_laptop(settings: Settings, given: dict[str, Any]) -> None:
    """On loopback, or where it was said aloud, everything is as it was."""
    for app in app_of(replace(settings, **given)):
        assert app.test_client().get("/stats/").status_code == 200


def test_the_processes_of_a_host_share_a_key(settings: Settings, store: LedgerStore) -> None:
    """Whichever process signed somebody in, all know them; the key's file is this user's alone."""
    ours = replace(settings, auth="keys")
    for first in app_of(ours):
        for second in app_of(ours):
            client = first.test_client()
            sign_in(client, api_key(store))
            cookie = client.get_cookie("hitledger")
            assert cookie
            other = second.test_client()
            other.set_cookie("hitledger", cookie.value)
            assert other.get("/stats/").status_code == 200
    (file,) = settings.data_dir.glob("session*")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_full_disk_leaves_no_half_of_a_key(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that could not be written whole and synced is no key: the start says so and leaves nothing behind."""

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for _ in range(3):
            with pytest.raises(SettingsError, match="No space left on device"):
                signing_keys(settings)
    assert list(settings.data_dir.glob("session*")) == []
    assert signing_keys(settings) == signing_keys(settings)


def test_a_key_is_changed_without_signing_anybody_out(settings: Settings, store: LedgerStore, tmp_path: Path) -> None:
    """A new first line signs from now on; what the second has signed stays good until it goes."""
    file = tmp_path / "keys"
    ours = replace(settings, auth="keys", session_key_file=file)
    file.write_text("a" * 40 + "\n")
    for app in app_of(ours):
        client = app.test_client()
        sign_in(client, api_key(store))
    cookie = client.get_cookie("hitledger")
    assert cookie
    for content, status in (("b" * 40 + "\n" + "a" * 40, 200), ("b" * 40, 401)):
        file.write_text(content)
        for app in app_of(ours):
            other = app.test_client()
            other.set_cookie("hitledger", cookie.value)
            assert other.get("/stats/").status_code == status
