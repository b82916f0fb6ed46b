"""limits: a client that asks too often is told so, and when to come back; nobody waits for the store."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import parse
from werkzeug.test import TestResponse

from hitledger.apikeys import ApiKeys
from hitledger.errors import SettingsError
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
from hitledger.web import limits
from hitledger.web.limits import Limiter, Limits, Policy
from hitledger.web.proxies import client_address, is_https
from tests.credentials import WITHOUT_SIGN_IN
from tests.guarded import start_valkey
from tests.support import Clients, Valkey

pytestmark = pytest.mark.usefixtures("one_hour")
Ask = Callable[..., TestResponse]
HIDDEN = {"limit_store_url": "redis://:sesame@127.0.0.1:1"}
"""A store that nobody runs."""


def from_address(address: str, **headers: str) -> dict[str, Any]:
    """Return what a request of a client at an address has."""
    return {"environ_base": {"REMOTE_ADDR": address}, "headers": headers}


def test_who_asks_too_often_is_told_when_to_come_back(clients: Clients) -> None:
    """The quota counts down in each answer; beyond it there is a 429 that says when there is more, for this client."""
    client = clients(limit_stats="3/hour", **WITHOUT_SIGN_IN)
    for remaining in (2, 1, 0):
        answer = client.get("/stats/")
        assert answer.status_code == 200
        assert answer.headers["RateLimit-Policy"] == '"stats";q=3;w=3600'
        assert re.fullmatch(rf'"stats";r={remaining};t=\d+', answer.headers["RateLimit"])
    answer = client.get("/stats/url?url=/x")
    content = json.loads(answer.get_data())
    assert (answer.status_code, answer.mimetype) == (429, "application/problem+json")
    assert content["violated-policies"] == ["stats"]
    assert answer.headers["RateLimit"] == f'"stats";r=0;t={answer.headers["Retry-After"]}'
    assert 1 <= int(answer.headers["Retry-After"]) <= 3600
    assert client.get("/stats/", **from_address("192.0.2.7")).status_code == 200


def test_the_older_form_of_the_headers(clients: Clients) -> None:
    """By setting, the headers have the form that was current before."""
    answer = clients(limit_stats="100/30 seconds", limit_headers="pairs").get("/stats/")
    assert re.fullmatch(r"limit=100, remaining=99, reset=([1-9]|[12]\d|30)", answer.headers["RateLimit"])
    assert answer.headers["RateLimit-Policy"] == "100;w=30"


def test_each_kind_of_request_has_its_own_limit(clients: Clients) -> None:
    """Exports and test runs are limited apart from reports; looking at runs, `/api/` and health never are."""
    client = clients(limit_export="1/hour", limit_test="1/hour")
    assert client.get("/stats/export").headers["RateLimit"].startswith('"export";r=0')
    assert client.get("/stats/export").status_code == 429
    assert client.post("/test/0/").headers["RateLimit"].startswith('"test";r=0')
    assert client.post("/test/0/").status_code == 429
    for _ in range(3):
        for path in ("/stats/", "/test/runs/", "/api/one/", "/livez", "/readyz"):
            answer = client.get(path)
            assert answer.status_code == 200
            assert "RateLimit" not in answer.headers


def test_limits_are_shared_by_all_processes(clients: Clients) -> None:
    """Two services with one store count together."""
    one, other = clients(limit_stats="2/hour"), clients(limit_stats="2/hour")
    assert [each.get("/stats/").status_code for each in (one, other, one, other)] == [200, 200, 429, 429]


def test_without_a_limit_nothing_is_in_the_way(settings: Settings, clients: Clients) -> None:
    """Where no setting names a limit, no hook is registered and no store is looked for."""
    app = clients(**HIDDEN).application
    assert not any(app.before_request_funcs.get(name) for name in ("stats", "runs", "api"))
    with pytest.raises(SettingsError, match="HITLEDGER_LIMIT_STORE_URL"):
        Limits(replace(settings, redis_url="redis+cluster://127.0.0.1:1", limit_test="1/day"))


def test_a_store_that_is_away_lets_pass_or_refuses(clients: Clients) -> None:
    """As the setting says: answered without a limit, or refused with a 503 that gives nothing away."""
    assert clients(limit_stats="1/hour", **HIDDEN).get("/stats/").status_code == 200
    closed = clients(limit_stats="1/hour", limit_without_store="closed", **HIDDEN)
    answer = closed.get("/stats/")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert "sesame" not in answer.get_data(as_text=True)
    assert closed.get("/api/x/").status_code == 200


def test_nobody_waits_for_a_store_that_hangs(
    short_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that takes connections and says nothing is given up on once, and then left alone for a moment."""
    monkeypatch.setattr(limits, "STORE_SECONDS", 0.1)
    now = [0.0]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_path / "store.sock"))
        listener.listen()
        listener.setblocking(False)
        limiter = Limiter(f"unix://{short_path / 'store.sock'}", "test", clock=lambda: now[0])
        policy = Policy("stats", parse("1/hour"))
        asked = []
        for moment in (0.0, 0.5, 0.9, 1.5):
            now[0] = moment
            assert limiter.take(policy, "192.0.2.1") is None
            try:
                listener.accept()[0].close()
                asked.append(moment)
            except BlockingIOError:
                pass
    assert asked == [0.0, 1.5]
    assert caplog.text.count("The limits' store cannot be used") == 1


def test_a_store_that_comes_back_is_used_again(short_path: Path) -> None:
    """The outage ends without a restart."""
    now = [0.0]
    (short_path / "store").mkdir()
    store = start_valkey(short_path / "store")
    limiter = Limiter(store.url, "test-limits", clock=lambda: now[0])
    policy = Policy("stats", parse("5/hour"))
    assert limiter.take(policy, "192.0.2.1")
    store.stop()
    assert limiter.take(policy, "192.0.2.1") is None
    store.start()
    now[0] = 2.0
    standing = limiter.take(policy, "192.0.2.1")
    store.stop()
    assert standing
    assert standing.remaining == 3


def test_a_client_is_a_network_of_ipv6(clients: Clients) -> None:
    """Whoever has 2^64 addresses has one quota; IPv4 written as IPv6 is the same client."""
    client = clients(limit_stats="1/hour", **WITHOUT_SIGN_IN)
    first, second = "2001:db8::1", "2001:db8::ffff:1"
    assert [client.get("/stats/", **from_address(each)).status_code for each in (first, second)] == [200, 429]
    first, second = "192.0.2.1", "::ffff:192.0.2.1"
    assert [client.get("/stats/", **from_address(each)).status_code for each in (first, second)] == [200, 429]


def test_an_api_key_is_a_client_wherever_it_is_used(clients: Clients, store: LedgerStore) -> None:
    """Known clients are limited by who they are, not by where they are; guessing at keys is limited by address."""
    keys = [ApiKeys(store).create(name, frozenset({"stats:read"}))[0] for name in ("one", "other")]
    client = clients(auth="keys", limit_stats="1/hour", limit_login="2/hour")
    for key in keys:
        answers = [
            client.get("/stats/", **from_address(address, Authorization=f"Bearer {key}"))
            for address in ("192.0.2.1", "192.0.2.2")
        ]
        assert [answer.status_code for answer in answers] == [200, 429]
    guesses = [client.post("/auth/key", data={"key": f"hlk_{number}"}) for number in range(3)]
    assert [answer.status_code for answer in guesses] == [401, 401, 429]


def test_nobody_escapes_by_a_header(clients: Clients) -> None:
    """X-Forwarded-For means nothing unless a proxy that is trusted has sent it."""
    client = clients(limit_stats="1/hour")
    forged = from_address("203.0.113.9", **{"X-Forwarded-For": "198.51.100.1"})
    assert [client.get("/stats/", **each).status_code for each in (from_address("203.0.113.9"), forged)] == [200, 429]


FORWARDED = "10.9.9.9, 198.51.100.1, 10.0.0.2"
NETWORKS = Settings.from_environment({"HITLEDGER_TRUSTED_PROXIES": "10.0.0.0/8, fd00::/8"}).trusted_proxies


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "client"),
    [
        (0, "10.0.0.1", FORWARDED, "10.0.0.1"),
        (1, "10.0.0.1", FORWARDED, "10.0.0.2"),
        (2, "10.0.0.1", FORWARDED, "198.51.100.1"),
        (2, "10.0.0.1", "198.51.100.1", "198.51.100.1"),
        (1, "10.0.0.1", "", "10.0.0.1"),
        (1, "10.0.0.1", "198.51.100.1, <script>", "10.0.0.1"),
        (1, "10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        (1, "10.0.0.1", "[2001:db8::1]:4711", "2001:db8::1"),
        (NETWORKS, "10.0.0.1", FORWARDED, "198.51.100.1"),
        (NETWORKS, "203.0.113.9", FORWARDED, "203.0.113.9"),
        (NETWORKS, "10.0.0.1", "10.0.0.2", "10.0.0.2"),
        (NETWORKS, "fd00::1", "2001:db8::1", "2001:db8::1"),
        (NETWORKS, "::ffff:10.0.0.1", FORWARDED, "198.51.100.1"),
        (NETWORKS, "10.0.0.1", "198.51.100.1, ::ffff:10.0.0.2", "198.51.100.1"),
        (0, "::ffff:203.0.113.9", "", "203.0.113.9"),
    ],
)
def test_proxies_are_believed_as_far_as_they_are_trusted(trusted: Any, peer: str, forwarded: str, client: str) -> None:
    """The list is read from its right end: past as many proxies as there are, or past their addresses."""
    environ = {"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": forwarded}
    assert client_address(environ, trusted) == client


@given(forged=st.lists(st.text(st.characters(max_codepoint=255), max_size=20), max_size=5))
def test_what_a_client_writes_itself_moves_nothing(forged: list[str]) -> None:
    """Whatever stands to the left of what the trusted proxy added, the client is the one it heard from."""
    environ = {"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_FOR": ",".join([*forged, "198.51.100.1"])}
    assert client_address(environ, 1) == client_address(environ, NETWORKS) == "198.51.100.1"


def test_https_is_believed_of_trusted_proxies_only() -> None:
    """X-Forwarded-Proto counts where the connection comes from a trusted proxy."""
    environ = {"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_PROTO": "http, https", "wsgi.url_scheme": "http"}
    assert [is_https(environ, each) for each in (0, 1, NETWORKS)] == [False, True, True]
    assert not is_https(environ | {"REMOTE_ADDR": "203.0.113.9"}, NETWORKS)
    assert is_https({"wsgi.url_scheme": "https"}, 0)


def test_quotas_come_back(valkey: Valkey) -> None:
    """What remains of a quota falls by one with each request that is let through, and never below nothing."""
    limiter = Limiter(valkey.url, "test-quotas")
    policy = Policy("stats", parse("5/hour"))
    standings = [limiter.take(policy, "192.0.2.1") for _ in range(8)]
    remaining = [each.remaining for each in standings if each]
    assert remaining == [4, 3, 2, 1, 0, 0, 0, 0]
    assert [each.allowed for each in standings if each] == [True] * 5 + [False] * 3
    assert all(one >= other for one, other in pairwise(remaining))
