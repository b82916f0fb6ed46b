"""The load generator, against real connections."""

from __future__ import annotations

import re
import threading

import pytest

from hitledger.errors import RunError
from hitledger.testrun import load as load_module
from hitledger.testrun.load import Load
from tests.ports import free_port
from tests.testruns import OK, target


def urls(base: str, count: int, distinct: int = 7) -> list[str]:
    """Return URLs, of which so many differ."""
    return [f"{base}/api/{number % distinct}/" for number in range(count)]


def test_every_request_is_sent_once_over_kept_connections() -> None:
    """What was asked for is what the server gets, as plain GETs, over no more connections than allowed."""
    with target() as server:
        load = Load(iter(urls(server.url, 500)), 4)
        load.run()
        assert sorted(server.paths) == sorted(url.removeprefix(server.url) for url in urls("", 500))
        assert 1 <= server.connections <= 4
        assert all(re.match(rb"GET /api/\d/ HTTP/1\.1\r\n", head) for head in server.requests)
    assert (load.sent, load.succeeded, load.failed, len(load.seen)) == (500, 500, 0, 7)
    summary = load.latencies.summary()
    assert summary is not None
    assert 0 < summary["p50"] <= summary["p99"] <= summary["max"]


def test_anything_but_2xx_has_failed() -> None:
    """Errors count as failed, and a redirect is one: it is not followed."""
    answers = {
        b"/ok/": OK,
        b"/error/": b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
        b"/moved/": b"HTTP/1.1 302 Moved\r\nLocation: /ok/\r\nContent-Length: 0\r\n\r\n",
        b"/none/": b"no HTTP at all\r\n\r\n",
    }
    with target(lambda head, _: answers[head.split(b" ")[1]]) as server:
        load = Load(iter([server.url + path.decode() for path in answers]), 1)
        load.run()
        assert sorted(server.paths) == sorted(path.decode() for path in answers)
    assert (load.succeeded, load.failed) == (1, 3)


def test_a_broken_connection_does_not_repeat_a_request() -> None:
    """A server that hangs up on a kept connection got each request once; those it hung up on have failed."""
    with target(lambda _, number: OK if number == 0 else None) as server:
        load = Load(iter(urls(server.url, 60, distinct=60)), 3)
        load.run()
        assert len(server.paths) == len(set(server.paths)) == 60
    assert load.sent == 60
    assert load.failed == len(server.paths) - load.succeeded >= 20


def test_nobody_there() -> None:
    """Where nobody listens, every request has failed."""
    load = Load(iter(urls(f"http://127.0.0.1:{free_port()}", 50)), 8)
    load.run()
    assert (load.succeeded, load.failed) == (0, 50)
    assert load.latencies.summary() is None


def test_the_environments_proxy_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment does not come between the run and the service."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    with target() as server:
        load = Load(iter(urls(server.url, 3)), 1)
        load.run()
    assert load.succeeded == 3


def test_stop_ends_a_load_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once stopped, nothing new is sent, and requests that nobody answers are cut and count as failed."""
    monkeypatch.setattr(load_module, "DRAIN_SECONDS", 0.05)
    release = threading.Event()

    def answer(_head: bytes, number: int) -> bytes | None:
        return OK if number == 0 or release.wait(20) else None

    with target(answer) as server:
        load = Load(iter(urls(server.url, 1000)), 2)
        thread = threading.Thread(target=load.run)
        thread.start()
        assert server.got_one.wait(20)
        load.stop()
        thread.join(20)
        release.set()
        assert not thread.is_alive()
        assert len(server.requests) <= load.sent < 1000
        assert load.succeeded <= 2


def test_a_silent_target_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that has answered nothing for too long ends the load with an error."""
    monkeypatch.setattr(load_module, "GIVE_UP_SECONDS", 0.1)
    release = threading.Event()

    def silent(_head: bytes, _number: int) -> bytes | None:
        release.wait(20)
        return None

    with target(silent) as server:
        load = Load(iter(urls(server.url, 10)), 2)
        with pytest.raises(RunError, match="has not answered"):
            load.run()
        release.set()
    assert (load.succeeded, load.failed) == (0, 2)
