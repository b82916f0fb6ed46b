"""The command line: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from hitledger.cli import COMMANDS, HIDDEN, main
from hitledger.journal import PATH, JournalWriter
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings


@dataclass
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run `hitledger` with words, in this process and an environment of its own."""
    for name in [name for name in os.environ if name.startswith("HITLEDGER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def command(*words: str, **environment: str) -> Ended:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["hitledger", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        status = ended.value.code or 0
        assert isinstance(status, int)
        return Ended(status, *capsys.readouterr())

    return command


def note(settings: Settings, *paths: bytes) -> None:
    """Journal one hit on each path."""
    journal = JournalWriter(settings.journal_dir, sync="none")
    for path in paths:
        assert journal.append(PATH, path)
    journal.close()


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    """The environment that says what `settings` says."""
    return {
        "HITLEDGER_REDIS_URL": str(settings.redis_url),
        "HITLEDGER_DATA_DIR": str(settings.data_dir),
        "HITLEDGER_KEY_PREFIX": settings.key_prefix,
    }


def test_help_names_every_command(run: Run) -> None:
    """`--help` lists every command with what it does, and each has a `--help` of its own."""
    shown = run("--help").out
    for name in COMMANDS.keys() - HIDDEN:
        assert f"\n  {name} " in shown
    for name in COMMANDS:
        ended = run(name, "--help")
        assert ended.status == 0
        assert ended.out.startswith(f"Usage: hitledger {name}")


def test_serve_takes_settings_as_options(run: Run) -> None:
    """An option that stands for a setting names its environment variable, and is checked like it."""
    assert "[HITLEDGER_PORT]" in run("serve", "--help").out
    ended = run("serve", "--port", "70000", HITLEDGER_PORT="5000")
    assert ended == Ended(
        2, "", "hitledger: HITLEDGER_PORT='70000' is not allowed. It takes a whole number from 1 to 65,535.\n"
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nonsense"], "No such command 'nonsense'. See `hitledger --help`."),
        (["stats", "--nonsense"], "No such option '--nonsense'. See `hitledger stats --help`."),
        (["stats", "more"], "Got unexpected extra argument (more). See `hitledger stats --help`."),
    ],
)
def test_wrong_usage_is_one_line(run: Run, words: list[str], line: str) -> None:
    """A mistake on the command line is told in one line with a hint, and the status is 2."""
    assert run(*words) == Ended(2, "", f"hitledger: {line}\n")


def test_wrong_settings_are_one_line(run: Run) -> None:
    """A bad environment stops any command that reads it, in one line and with status 2."""
    ended = run("settings", HITLEDGER_PROT="1")
    assert ended == Ended(2, "", "hitledger: HITLEDGER_PROT is no setting. Did you mean HITLEDGER_PORT?\n")


def test_no_ledger_is_one_line(run: Run, tmp_path: Path) -> None:
    """Without a ledger, a command that needs one says what to do, and the status is 1."""
    for command in ("stats", "post"):
        assert run(command) == Ended(
            1,
            "",
            f"hitledger: No ledger is set, and no service runs on {tmp_path}/.hitledger. "
            "Start `hitledger serve`, or set HITLEDGER_REDIS_URL.\n",
        )


def test_version(run: Run) -> None:
    """`version` prints the version that is installed."""
    assert run("version").out.startswith("hitledger 0.")


def test_settings_as_table_and_json(run: Run) -> None:
    """`settings` prints every setting as it stands, without passwords; as JSON on demand."""
    secret = "redis://user:secret@ledger.example:6379/0"
    table = run("settings", HITLEDGER_REDIS_URL=secret, HITLEDGER_PORT="5055").out
    assert "secret" not in table
    assert "redis://user:***@ledger.example:6379/0" in table
    rows = json.loads(run("settings", "--json").out)
    (port,) = (row for row in rows if row["name"] == "HITLEDGER_PORT")
    assert (port["value"], port["default"]) == ("5055", "5000")
    assert "secret" not in json.dumps(rows)


def test_stats_posts_and_prints(run: Run, settings: Settings, environment: dict[str, str]) -> None:
    """`stats` posts this host's journal first; a table for people, JSON for programs."""
    note(settings, b"/api/two/", b"/api/one/", b"/api/two/")
    lines = run("stats", **environment).out.splitlines()
    assert [line.split() for line in lines[2:4]] == [["2", "/api/two/"], ["1", "/api/one/"]]
    assert "3 requests to 2 URLs" in lines[-1]
    note(settings, b"/api/one/", b"/api/one/")
    page = json.loads(run("stats", "--json", "--limit", "1").out)
    assert page["urls"] == [{"url": "/api/one/", "requests": 3}]
    assert page["total_requests"] == 5
    page = json.loads(run("stats", "--json", "--limit", "1", "--cursor", page["next"]).out)
    assert page["urls"] == [{"url": "/api/two/", "requests": 2}]
    assert page["next"] is None


def test_a_bad_cursor_is_wrong_usage(run: Run, environment: dict[str, str]) -> None:
    """A cursor that no page gave is refused in one line that names it."""
    ended = run("stats", "--cursor", "garbage", **environment)
    assert ended.status == 2
    assert ended.err.startswith("hitledger: The parameter cursor ")
    assert ended.err.count("\n") == 1


def test_post(run: Run, settings: Settings, store: LedgerStore, environment: dict[str, str]) -> None:
    """`post` moves the journal into the ledger; again, it books nothing twice."""
    note(settings, b"/api/one/")
    for _ in range(2):
        assert run("post", **environment).status == 0
        assert store.reader(0).zscore(store.set_key(0), "/api/one/") == 1


def test_a_closed_pipe_is_quiet() -> None:
    """A reader that has seen enough ends the command without a word."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "hitledger", "settings"]
    ended = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, check=False)
    os.close(write_end)
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_a_full_disk_is_one_line() -> None:
    """Where what is printed finds no room, the command fails and says so."""
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "hitledger", "settings"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "hitledger: The output: No space left on device.\n")


@pytest.mark.parametrize("command", ["stats", "audit", "export", "top --once", "test 5"])
def test_a_service_that_is_not_there_is_said_plainly(run: Run, command: str) -> None:
    """Nobody has to read the number of a system's error to learn that nothing listens at `--url`."""
    said = "hitledger: http://127.0.0.1:1 does not answer: Connection refused. Is a service running there?\n"
    assert run(*command.split(), "--url", "http://127.0.0.1:1") == Ended(1, "", said)
