"""safety: pages that no browser can be talked into misusing, and hosts that the service answers for."""

from __future__ import annotations

import json

import pytest

from hitledger.errors import SettingsError
from hitledger.settings import Settings
from hitledger.web.safety import PAGE_HEADERS
from tests.support import Clients


@pytest.mark.parametrize("path", ["/", "/url?url=/x", "/runs/", "/live/", "/docs/", "/openapi.json"])
def test_every_page_is_protected(clients: Clients, path: str) -> None:
    """Each page has a policy without exceptions, and may not be framed; HTTPS is insisted on where it is spoken."""
    client = clients(trusted_proxies=1)
    answer = client.get(path)
    assert PAGE_HEADERS.items() <= dict(answer.headers).items()
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert "Strict-Transport-Security" not in answer.headers
    secure = client.get(path, headers={"X-Forwarded-Proto": "https"})
    assert "max-age=" in secure.headers["Strict-Transport-Security"]


@pytest.mark.parametrize("path", ["/api/one/", "/stats/", "/nothing", "/static/dashboard.js", "/", "/livez"])
def test_no_answer_is_guessed_at(clients: Clients, path: str) -> None:
    """Whatever is answered, a browser takes it for what its Content-Type says."""
    with clients().get(path) as answer:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/stats/", "/api/one/", "/test/runs/"])
def test_only_trusted_hosts_are_answered_for(clients: Clients, path: str) -> None:
    """With hosts set, these, those below a dotted one, and the service's own address are answered for."""
    client = clients(trusted_hosts=("hits.example.org", ".hits.test"), self_url="http://web:5000")
    for host in ("hits.example.org", "HITS.example.org:8443", "a.hits.test", "web:5000"):
        assert client.get(path, headers={"Host": host}).status_code == 200
    for host in ("evil.example", "hits.example.org.evil.example", "hits.example.org@evil.example", "bad host!", ""):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == 421
        assert json.loads(answer.get_data())["title"] == "Misdirected Request"


def test_probes_come_by_address(clients: Clients) -> None:
    """Kubernetes asks a pod by its address, whatever hosts the service answers for."""
    client = clients(trusted_hosts=("hits.example.org",))
    for path in ("/livez", "/readyz", "/metrics"):
        assert client.get(path, headers={"Host": "10.0.0.7:5000"}).status_code == 200


def test_without_hosts_any_is_answered_for(clients: Clients) -> None:
    """On a laptop nothing has to be set, and nothing is looked at."""
    assert clients().get("/api/one/", headers={"Host": "bad host!"}).status_code == 200


@pytest.mark.parametrize("value", ["https://a.example", "a.example:80", "a b", "*", "a..b", ","])
def test_a_host_that_is_none_stops_the_start(value: str) -> None:
    """Hosts are names: anything else is refused with what is allowed."""
    with pytest.raises(SettingsError, match="host names without a port"):
        Settings.from_environment({"HITLEDGER_TRUSTED_HOSTS": value})
