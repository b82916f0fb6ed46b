"""`hitledger top` and `hitledger test`, on a terminal as people have it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pexpect
import pytest
from rich.console import Console
from werkzeug.serving import make_server

from hitledger.cli.drawing import Glyphs, bar, draw, sparkline
from hitledger.cli.remote import LedgerPlace, ServicePlace, View
from hitledger.cli.screen import Screen
from hitledger.errors import ServiceError
from hitledger.journal import PATH, JournalWriter
from hitledger.settings import Settings
from hitledger.web import create_app
from tests.ports import free_port
from tests.processes import Running

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
        sys.executable, command, env=environment, dimensions=(LINES, COLUMNS), encoding="utf-8", timeout=60
    )
    try:
        yield child
    finally:
        child.close(force=True)


def drawn(screen: Screen) -> list[str]:
    """Return the lines that a screen of 80 by 24 shows."""
    console = Console(width=COLUMNS, height=LINES)
    with console.capture() as captured:
        console.print(draw(screen, COLUMNS, LINES))
    return captured.get().splitlines()


def view_of(rows: list[tuple[str, int]], second: int = 0, count: int | None = None) -> View:
    """Return a look at rows, so many seconds after midnight."""
    total = sum(hits for _, hits in rows)
    at = datetime(2026, 11, 23, tzinfo=UTC) + timedelta(seconds=second)
    return View(at, total, len(rows), rows, total, count)


@pytest.mark.slow
@pytest.mark.usefixtures("one_hour")
def test_top_on_a_terminal(settings: Settings) -> None:
    """Rows climb by themselves; keys switch the period, filter while they are typed, open sections, pause and quit."""
    note(settings, b"/api/hot/", 3)
    note(settings, b"/api/cold/", 1)
    with on_a_terminal(environment_of(settings), "top") as child:
        child.expect_exact("/api/cold/")
        child.send("p")
        child.expect_exact("this hour")
        note(settings, b"/api/rising/", 9)
        child.expect_exact("/api/rising/")
        child.expect_exact("requests/s")
        child.send("/col")
        child.expect_exact("filter: col")
        child.send("d\r")
        child.expect_exact("filter: cold   /")
        child.send("\x1b")
        child.expect_exact("/api/hot/")
        child.send("s")
        child.expect_exact("in /")
        child.expect_exact("/api/")
        child.send("\r")
        child.expect_exact("in /api/")
        child.expect_exact("/api/hot/")
        child.send("h")
        child.expect_exact("Any key goes back.")
        child.send("x ")
        child.expect_exact("PAUSED")
        child.send("q")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0


@pytest.mark.slow
def test_ctrl_c_leaves_top_and_the_terminal_as_it_was(settings: Settings) -> None:
    """Ctrl-C ends it in good order, and what is typed afterwards is shown again."""
    note(settings, b"/api/hot/", 1)
    with on_a_terminal(environment_of(settings), "top") as child:
        child.expect_exact("/api/hot/")
        child.send("\x03")
        child.expect_exact("\x1b[?1049l")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0


def test_a_screen_fits() -> None:
    """Whatever the rows hold, 24 lines of 80 columns suffice, and a terminal gets no orders from them."""
    rows = [("/api/" + "x" * 2000, 9_007_199_254_740_991), ("/api/\x1b[2J\u202e/", 17), *[("/api/y/", 1)] * 30]
    screen = Screen(view=view_of(rows), error="The ledger cannot be reached. " * 9, search="\x1b[2J" * 50)
    screen.rates.extend(range(60))
    for screen.typing, screen.helping in ((False, False), (True, False), (False, True)):
        lines = drawn(screen)
        assert len(lines) <= LINES
        assert max(map(len, lines)) <= COLUMNS
        text = "\n".join(lines)
        assert "\x1b" not in text
        assert "\u202e" not in text
    screen.helping = False
    assert "9,007,199,254,740,991" in "\n".join(drawn(screen))


def test_what_is_drawn_is_also_there_without_unicode() -> None:
    """A terminal that only has ASCII gets bars and lines of ASCII."""
    screen = Screen(view=view_of([("/api/a/", 8), ("/api/b/", 1)]))
    screen.rates.extend([1.0, 2.0, 8.0])
    assert draw(screen, COLUMNS, LINES, Glyphs.of("ascii")).plain.isascii()
    assert sparkline([0, 4, 8], Glyphs().levels) == "▁▅█"
    assert [bar(share, Glyphs().eighths) for share in (0, 0.0001, 0.5, 1)] == ["", "▏", "████", "████████"]


def test_keys() -> None:
    """Each key does its own; while a filter is typed, letters are letters."""
    screen = Screen()
    screen.press("ps")
    assert (screen.period, screen.parameters) == ("hour", {"period": "hour", "group": "1", "prefix": "/"})
    screen.press("/qp\x7f")
    assert (screen.search, screen.typing, screen.ended) == ("q", True, False)
    screen.press("\r")
    assert screen.parameters == {"period": "hour", "search": "q"}
    screen.press("\x1b q")
    assert (screen.search, screen.paused, screen.ended) == ("", True, True)


def test_arrows_choose_rows_and_walk_through_sections() -> None:
    """The chosen row stays in sight; Enter opens its section, left goes up; a URL opens nothing."""
    screen = Screen(sections=True)
    screen.take(view_of([(f"/{number:02}/", 100 - number) for number in range(40)], count=40))
    screen.press("\x1b[B" * 12, 10)
    assert (screen.chosen, screen.first) == (12, 3)
    screen.press("\x1b[6~k\x1bOA", 10)
    assert (screen.chosen, screen.first) == (20, 13)
    screen.press("\x1b[4~", 10)
    assert screen.chosen == 39
    screen.press("\x1b[1~\x1b[B\r", 10)
    assert screen.parameters == {"group": "2", "prefix": "/01/"}
    assert screen.view is None
    screen.take(view_of([("/01/", 7)], count=1))
    screen.press("\r")
    assert screen.prefix == "/01/"
    screen.press("\x1b[D")
    assert screen.parameters == {"group": "1", "prefix": "/"}


def test_rates_are_those_between_two_looks() -> None:
    """All requests and each row have their rate; ordered by it, what rises fastest stands first."""
    screen = Screen()
    screen.take(view_of([("/a/", 1000), ("/b/", 10)]))
    screen.take(view_of([("/a/", 1002), ("/b/", 30), ("/new/", 5)], second=2))
    assert list(screen.rates) == [13.5]
    assert screen.row_rates == {"/a/": 1.0, "/b/": 10.0}
    assert screen.rows[0][0] == "/a/"
    screen.press("o")
    assert screen.rows[0][0] == "/b/"
    screen.take(view_of([("/a/", 1)], second=3))  # another hour has begun
    assert list(screen.rates) == [13.5]


def test_what_was_read_stays_while_nothing_can_be(settings: Settings) -> None:
    """A ledger or service that goes away leaves the last figures, with the reason."""
    note(settings, b"/api/kept/", 2)
    screen = Screen()
    screen.look(LedgerPlace(settings), 10)
    screen.look(ServicePlace(f"http://127.0.0.1:{free_port()}"), 10)
    text = "\n".join(drawn(screen))
    assert "/api/kept/" in text
    assert "does not answer" in text


def test_over_http_it_is_the_same(settings: Settings, token: str | None) -> None:
    """A service and its ledger show the same rows; what a service refuses is said in its words."""
    note(settings, b"/api/one/two/", 3)
    app = create_app(settings)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        service = ServicePlace(f"http://127.0.0.1:{server.server_port}", token)
        for parameters in ({"search": "one"}, {"group": "2", "prefix": "/api/"}):
            here, there = LedgerPlace(settings).look(parameters), service.look(parameters)
            assert there.rows == here.rows != []
            assert (there.part_requests, there.row_count) == (here.part_requests, here.row_count)
        with pytest.raises(ServiceError, match="limit"):
            service.look({"limit": "0"})
        with pytest.raises(ServiceError, match="worker"):
            service.start(5)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        app.extensions["hitledger"].counter.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "options", "prepared"),
    [("bash", ["--norc", "-i"], ""), ("zsh", ["-f", "-i"], "autoload -Uz compinit; compinit -u -D; ")],
    ids=["bash", "zsh"],
)
def test_a_shell_completes_commands_and_options(shell: str, options: list[str], prepared: str) -> None:
    """With the line of the docs, Tab completes commands, options and the values that they take."""
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}: apt-get install {shell}")
    environment = {**os.environ, "PATH": path_of_hitledger(), "PS1": "ready> ", "TERM": "dumb"}
    child = pexpect.spawn(shell, options, env=environment, encoding="utf-8")
    try:
        child.sendline(f'{prepared}eval "$(_HITLEDGER_COMPLETE={shell}_source hitledger)"; echo do""ne')
        child.expect_exact("done")
        child.expect_exact("ready> ")
        for typed, completed in (
            ("hitledger to", "hitledger top "),
            ("hitledger top --per", "hitledger top --period "),
            ("hitledger top --period mo", "hitledger top --period month"),
        ):
            child.send(typed + "\t")
            child.expect_exact(completed)
            child.send("\x15")
    finally:
        child.close(force=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish: apt-get install fish")
def test_fish_completes_commands_and_options(tmp_path: Path) -> None:
    """The file that the docs have written for fish completes the same."""
    asked = ("hitledger to", "hitledger top --per", "hitledger top --period mo")
    script = ["_HITLEDGER_COMPLETE=fish_source hitledger > hitledger.fish", "source hitledger.fish"]
    script += [f'complete -C "{typed}"' for typed in asked]
    environment = {**os.environ, "PATH": path_of_hitledger(), "HOME": str(tmp_path)}
    done = subprocess.run(
        ["fish", "-c", "; ".join(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert [line.partition("\t")[0] for line in done.stdout.splitlines()] == ["top", "--period", "month"]


def path_of_hitledger() -> str:
    """Return a PATH on which the command is."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


@pytest.mark.slow
def test_a_run_from_the_command_line(settings: Settings, short_path: Path) -> None:
    """A run is followed to its end, at its pace; Ctrl-C cancels one; over HTTP and beside the ledger."""
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
            child.expect(r"running .* [1-9][0-9,]*/s now")
            child.send("\x03")
            child.expect_exact("cancelled: ")
            child.expect(pexpect.EOF)
            child.wait()
            assert child.exitstatus == 1
        running.end()
