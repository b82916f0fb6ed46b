"""logs: one event is one line, whatever comes from outside, and tells nobody's secrets."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from hitledger.logs import make_formatter
from hitledger.paths import canonical
from hitledger.serve import answers_http
from hitledger.settings import Settings
from hitledger.web import create_app
from hitledger.web.accesslog import AccessLog
from hitledger.web.observed import Entry
from hitledger.web.requests import request_fields
from tests.ports import free_port
from tests.processes import Running
from tests.support import Valkey, wait_until

ANY_TEXT = st.text(st.characters(codec=None, categories=None))
UNSEEMLY = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202e]")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HOSTILE_PATHS = [
    b"/api/a%0A%7B%22level%22:%22error%22%7D/",
    b"/api/%1B[2J%1B[31m/",
    b"/api/%22,%22status%22:500,%22x%22:%22/",
    b"/api/%E2%80%A8%E2%80%AE%C2%85/",
    b"/api/%FF%00%0D/",
    b"/api/" + b"x" * 2000 + b"/",
]


def record(text: str, *arguments: object, error: Exception | None = None, **extra: object) -> logging.LogRecord:
    """Return a record as a module of ours makes it."""
    info = (type(error), error, None) if error else None
    found = logging.LogRecord("hitledger.test", logging.WARNING, __file__, 1, text, arguments, info)
    vars(found).update(extra)
    return found


@examples(deadline=None)
@given(ANY_TEXT, ANY_TEXT)
def test_an_event_is_one_line_of_json(path: str, value: str) -> None:
    """Whatever an event's words and fields hold, it is one line, and reads back as it was."""
    line = make_formatter(console=False).format(record("cannot answer %s", path, where=value))
    assert not UNSEEMLY.search(line)
    assert line.isascii()
    found = json.loads(line)
    assert {found["level"], found["logger"]} == {"warning", "hitledger.test"}
    if "://" not in path + value and "Bearer" not in path + value:
        assert (found["event"], found["where"]) == (f"cannot answer {path}", value)


@examples(deadline=None)
@given(ANY_TEXT, ANY_TEXT)
def test_an_event_is_one_line_on_a_console(path: str, value: str) -> None:
    """On a console, what comes from outside breaks no line and moves no cursor."""
    line = make_formatter(console=True).format(record("cannot answer %s", path, where=value))
    assert not UNSEEMLY.search(line)
    line.encode()


@examples(deadline=None)
@given(ANY_TEXT)
def test_a_traceback_begins_no_line_as_an_event_does(text: str) -> None:
    """The lines of a traceback are indented, so that an error's text cannot forge an event."""
    lines = make_formatter(console=True).format(record("failed", error=ValueError(text))).split("\n")
    assert re.match(r"\d{4}-\d\d-\d\dT", lines[0])
    assert len(lines) > 1
    assert all(line.startswith("    ") for line in lines[1:] if line)
    assert not any(UNSEEMLY.search(line) for line in lines)


@pytest.mark.parametrize("console", [True, False])
def test_credentials_are_hidden(console: bool) -> None:
    """No password of an address and no token stands in a line, whoever wrote it there."""
    error = ConnectionError("cannot reach rediss://user:pass%40word@ledger:6379/0")
    line = make_formatter(console=console).format(
        record("tried %s", "redis://:hunter2@ledger/0", error=error, header="Authorization: Bearer abc.def-ghi")
    )
    assert "hunter2" not in line
    assert "pass%40word" not in line
    assert "abc.def-ghi" not in line
    assert "ledger:6379" in line


class Captured(logging.Handler):
    """Keeps lines as they would be written."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(make_formatter((request_fields,), console=False))
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take one."""
        self.lines.append(json.loads(self.format(record)))


@pytest.fixture
def captured() -> Iterator[Captured]:
    """What the service's modules log."""
    handler = Captured()
    logging.getLogger("hitledger.web").addHandler(handler)
    yield handler
    logging.getLogger("hitledger.web").removeHandler(handler)


def test_lines_of_a_request_name_it(settings: Settings, captured: Captured) -> None:
    """What is logged while a request is answered has the id that its client is told, and its trace."""
    app = create_app(replace(settings, redis_url="redis://127.0.0.1:1"))
    headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    answer = app.test_client().get("/stats/", headers=headers)
    assert answer.status_code == 503
    (line,) = [line for line in captured.lines if "cannot be answered" in line["event"]]
    assert line["request_id"] == answer.headers["X-Request-ID"] == answer.get_json()["request_id"]
    assert line["trace_id"] == TRACE
    app.extensions["hitledger"].counter.stop()


@pytest.mark.parametrize("given_id", ["a b", 'x"y', "x" * 65, "", "a\tb", "\xe9"])
def test_an_id_that_is_not_well_formed_is_replaced(settings: Settings, given_id: str) -> None:
    """A client's id is taken where it is well formed only."""
    app = create_app(settings)
    client = app.test_client()
    assert client.get("/nowhere", headers={"X-Request-ID": "Fine-1.2_3"}).headers["X-Request-ID"] == "Fine-1.2_3"
    first = client.get("/nowhere", headers={"X-Request-ID": given_id}).headers["X-Request-ID"]
    second = client.get("/nowhere", headers={"X-Request-ID": given_id}).headers["X-Request-ID"]
    assert re.fullmatch(r"[0-9a-f]{16}", first)
    assert first != second
    app.extensions["hitledger"].counter.stop()


@contextmanager
def access_log(*, console: bool = False) -> Iterator[tuple[AccessLog, int]]:
    """An access log that writes when it is told to, into a pipe; yields it and the pipe's other end."""
    read, write = os.pipe()
    log = AccessLog(write, lambda: None, console=console)
    log._pid = os.getpid()  # its thread is there already, as far as it knows
    try:
        yield log, read
    finally:
        os.close(read)
        os.close(write)


def entry(path: str = "/api/x/", method: str = "GET", client: str = "::1", given: str = "") -> Entry:
    """Return what is noted of a request."""
    return Entry(
        method, "200", "/api/<anything:rest>", 1_234_567, 1, path, client, "203.0.113.9", None, given, None, given
    )


LATIN = st.text(st.characters(max_codepoint=255))


@examples(deadline=None)
@given(LATIN, LATIN, LATIN, st.booleans())
def test_a_request_is_one_line(path: str, method: str, client: str, console: bool) -> None:
    """Whatever a request's path and method hold, its line in the access log is one, and fits into one write."""
    with access_log(console=console) as (log, read):
        log.take([entry("/" + path, method, client, path)])
        log.flush()
        line = os.read(read, 65536).decode("ascii")
    assert line.endswith("\n")
    assert not UNSEEMLY.search(line[:-1])
    assert len(line) < 4096
    if not console:
        assert json.loads(line)["method"] == method


@pytest.mark.parametrize(("trusted", "shown"), [((), "10.0.0.1"), (1, "203.0.113.9")])
def test_the_client_behind_a_trusted_proxy(trusted: int | tuple[()], shown: str) -> None:
    """The line names the client as a trusted proxy does, and the connection's other end where none is trusted."""
    with access_log() as (log, read):
        log._trusted = trusted
        log.take([entry(client="10.0.0.1")])
        log.flush()
        assert json.loads(os.read(read, 65536))["client"] == shown


@pytest.mark.slow
def test_lines_that_nobody_takes_hold_nobody_up() -> None:
    """Where the pipe is full, lines wait up to a bound and are dropped beyond it; the reader hears how many."""
    with access_log() as (log, read):
        sent = 0
        while not log._dropped:
            log.take([entry()] * 1000)
            sent += 1000
        os.set_blocking(read, False)
        text = b""
        while log._lines or b"dropped" not in text:
            log.flush()
            with suppress(BlockingIOError):
                text += os.read(read, 2**20)
        lines = [json.loads(line) for line in text.splitlines()]
    assert lines[-1]["event"] == "lines of the access log were dropped"
    assert len(lines) - 1 + lines[-1]["dropped"] == sent
    assert {line["event"] for line in lines[:-1]} == {"request"}


def request_raw(port: int, path: bytes) -> bytes:
    """Send a path as it is, and return the answer's status line."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nX-Request-ID: r1\r\nConnection: close\r\n\r\n")
        return connection.makefile("rb").readline()


@pytest.fixture
def web(valkey: Valkey, tmp_path: Path) -> Iterator[Callable[..., tuple[Running, int]]]:
    """Web processes with these settings, and their port."""
    started: list[Running] = []

    def start(**settings: str) -> tuple[Running, int]:
        port = free_port()
        environment = {
            "HITLEDGER_REDIS_URL": valkey.url,
            "HITLEDGER_DATA_DIR": str(tmp_path),
            "HITLEDGER_KEY_PREFIX": f"test-logs-{port}",
            "HITLEDGER_PORT": str(port),
            "HITLEDGER_WORKERS": "2",
            **settings,
        }
        running = Running([sys.executable, "-m", "hitledger", "web"], environment)
        started.append(running)
        wait_until(lambda: answers_http(Settings(port=port)))
        return running, port

    yield start
    for running in started:
        running.__exit__(None, None, None)


@pytest.mark.slow
def test_the_access_log_of_a_service(web: Callable[..., tuple[Running, int]]) -> None:
    """Each request is one line of JSON with its URL, route, status, duration and id; its query is not there."""
    running, port = web(HITLEDGER_ACCESS_LOG="1")
    for path in HOSTILE_PATHS:
        assert request_raw(port, path + b"?token=secret").startswith(b"HTTP/1.1 200")
    assert request_raw(port, b"/no%0Awhere").startswith(b"HTTP/1.1 404")
    assert running.end() == 0
    lines = [json.loads(line) for line in running.output().splitlines()]
    requests = [line for line in lines if line["logger"] == "hitledger.access" and line["path"] != "/livez"]
    assert len(requests) == len(HOSTILE_PATHS) + 1
    unmatched = requests.pop([line["route"] for line in requests].index("(unmatched)"))
    assert (unmatched["status"], unmatched["path"]) == (404, "/no%0Awhere")
    assert {line["path"] for line in requests} == {canonical(path.decode())[:1024] for path in HOSTILE_PATHS}
    for line in requests:
        assert (line["method"], line["status"], line["request_id"]) == ("GET", 200, "r1")
        assert line["route"] == "/api/<anything:rest>"
        assert line["duration_ms"] > 0
        assert line["client"] == "127.0.0.1"
    assert "secret" not in json.dumps(lines)


@pytest.mark.slow
def test_levels_and_forms(web: Callable[..., tuple[Running, int]]) -> None:
    """Lines are for people where that is set, and only those as grave as the level."""
    running, port = web(
        HITLEDGER_LOG_FORMAT="console", HITLEDGER_LOG_LEVEL="error", HITLEDGER_REDIS_URL="redis://127.0.0.1:1"
    )
    assert request_raw(port, b"/stats/").startswith(b"HTTP/1.1 503")
    assert running.end() == 0
    assert running.output() == ""
    running, port = web(HITLEDGER_LOG_FORMAT="console", HITLEDGER_REDIS_URL="redis://127.0.0.1:1")
    assert request_raw(port, b"/stats/").startswith(b"HTTP/1.1 503")
    line = running.line_with("cannot be answered")
    assert re.match(r"\d{4}-\d\d-\d\dT[0-9:.]+Z \[warning\] request r1 cannot be answered", line)
    assert "request_id=r1" in line
    assert running.end() == 0
