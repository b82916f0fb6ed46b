"""`hitledger top` and `hitledger test`, on a terminal as people have it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pexpect
import pytest
from click.shell_completion import BashComplete
from rich.console import Console
from werkzeug.serving import make_server

from hitledger.cli import commands
from hitledger.cli.remote import LedgerPlace, ServicePlace, View
from hitledger.cli.top import FRAME_LINES, Screen
from hitledger.errors import ServiceError
from hitledger.journal import PATH, JournalWriter
from hitledger.settings import Settings
from hitledger.web import create_app
from tests.processes import Running, free_port

LINES, COLUMNS = 24, 80


def note(settings: Settings, path: bytes, times: int) -> None:
    """Journal hits on a path."""
    journal = JournalWriter(settings.journal_dir, sync="none")
    for _ in range(times):
        assert journal.append(PATH, path)
    journal.close()


def environment_of(settings: Settings) -> dict[str, str]:
    """Return the environment in which a command has these settings."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("HITLEDGER_")}
    assert settings.redis_url
    return {
        **others,
        "TERM": "xterm",
        "HITLEDGER_REDIS_URL": settings.redis_url,
        "HITLEDGER_DATA_DIR": str(settings.data_dir),
        "HITLEDGER_KEY_PREFIX": settings.key_prefix,
    }


@contextmanager
def on_a_terminal(environment: dict[str, str], *words: str) -> Iterator[pexpect.spawn[str]]:
    """Run `hitledger` with words on a terminal of 80 by 24."""
    command = ["-m", "hitledger", *words]
    child = pexpect.spawn(
        sys.executable, command, env=environment, dimensions=(LINES, COLUMNS), encoding="utf-8", timeout=20
    )
    try:
        yield child
    finally:
        child.close(force=True)


def drawn(screen: Screen) -> list[str]:
    """Return the lines that a screen of 80 by 24 shows."""
    console = Console(width=COLUMNS, height=LINES)
    with console.capture() as captured:
        console.print(screen.draw(LINES - FRAME_LINES))
    return captured.get().splitlines()


@pytest.mark.slow
def test_top_on_a_terminal(settings: Settings) -> None:
    """Rows climb by themselves; keys switch the period, filter while they are typed, pause and quit."""
    note(settings, b"/api/hot/", 3)
    note(settings, b"/api/cold/", 1)
    with on_a_terminal(environment_of(settings), "top") as child:
        child.expect_exact("/api/cold/")
        child.send("p")
        child.expect_exact("this hour")
        note(settings, b"/api/rising/", 9)
        child.expect_exact("/api/rising/")
        child.send("/col")
        child.expect_exact("filter: col")
        child.send("d\r")
        child.expect_exact("filter: cold  /")
        child.send("\x1b")
        child.expect_exact("/api/hot/")
        child.send(" ")
        child.expect_exact("PAUSED")
        child.send("q")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0


def test_a_screen_fits() -> None:
    """Whatever the rows hold, 24 lines of 80 columns suffice, and a terminal gets no orders from them."""
    rows = [("/api/" + "x" * 2000, 9_007_199_254_740_991), ("/api/\x1b[2J\u202e/", 17), *[("/api/y/", 1)] * 30]
    view = View(datetime(2026, 11, 23, tzinfo=UTC), 9_007_199_254_741_000, 50_000_000, rows)
    lines = drawn(Screen(view=view, rate=123_456.7, error="The ledger cannot be reached. " * 9))
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    text = "\n".join(lines)
    assert "9,007,199,254" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_keys() -> None:
    """Each key does its own; while a filter is typed, letters are letters."""
    screen = Screen()
    screen.press("ps")
    assert (screen.period, screen.parameters) == ("hour", {"period": "hour", "group": "2"})
    screen.press("/qp\x7f")
    assert (screen.search, screen.typing, screen.ended) == ("q", True, False)
    screen.press("\r")
    assert screen.parameters == {"period": "hour", "search": "q"}
    screen.press("\x1b q")
    assert (screen.search, screen.paused, screen.ended) == ("", True, True)


def test_what_was_read_stays_while_nothing_can_be(settings: Settings) -> None:
    """A ledger or service that goes away leaves the last figures, with the reason."""
    note(settings, b"/api/kept/", 2)
    screen = Screen()
    screen.look(LedgerPlace(settings), 10)
    screen.look(ServicePlace(f"http://127.0.0.1:{free_port()}"), 10)
    text = "\n".join(drawn(screen))
    assert "/api/kept/" in text
    assert "does not answer" in text


def test_over_http_it_is_the_same(settings: Settings) -> None:
    """A service and its ledger show the same rows; what a service refuses is said in its words."""
    note(settings, b"/api/one/two/", 3)
    app = create_app(settings)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        service = ServicePlace(f"http://127.0.0.1:{server.server_port}")
        for parameters in ({"search": "one"}, {"group": "2", "prefix": "/api/"}):
            assert service.look(parameters).rows == LedgerPlace(settings).look(parameters).rows != []
        with pytest.raises(ServiceError, match="limit"):
            service.look({"limit": "0"})
        with pytest.raises(ServiceError, match="worker"):
            service.start(5)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        app.extensions["hitledger"].counter.stop()


def test_completion_knows_the_commands() -> None:
    """A shell that asks gets the commands that begin so."""
    shell = BashComplete(commands, {}, "hitledger", "_HITLEDGER_COMPLETE")
    assert [each.value for each in shell.get_completions([], "to")] == ["top"]


@pytest.mark.slow
def test_a_run_from_the_command_line(settings: Settings, short_path: Path) -> None:
    """A run is followed to its end; Ctrl-C cancels one; over HTTP and beside the ledger."""
    port = free_port()
    environment = environment_of(settings) | {"HITLEDGER_PORT": str(port), "HITLEDGER_WORKERS": "1"}
    with Running([sys.executable, "-m", "hitledger", "serve"], environment, short_path) as running:
        running.line_with("Serving on")
        with on_a_terminal(environment, "test", "300") as child:
            child.expect_exact("finished: 300 of 300 requests sent, 0 failed")
            child.expect(pexpect.EOF)
            child.wait()
            assert child.exitstatus == 0
        command = [sys.executable, "-m", "hitledger", "test", "50", "--json", "--url", f"http://127.0.0.1:{port}"]
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert json.loads(answer.stdout)["succeeded"] == 50
        with on_a_terminal(environment, "test", "500000") as child:
            child.expect_exact("running")
            child.send("\x03")
            child.expect_exact("cancelled: ")
            child.expect(pexpect.EOF)
            child.wait()
            assert child.exitstatus == 1
        running.end()
