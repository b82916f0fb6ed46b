"""The supervisor, with real programs: a shell each, and one script that supervises them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.processes import Running
from tests.support import wait_until

SUPERVISE = """
import sys
from hitledger.errors import ServiceError
from hitledger.supervision import Program, Supervisor

def say(line):
    print(line, flush=True)

try:
    with Supervisor(say) as supervisor:
        for number, script in enumerate(sys.argv[1:]):
            supervisor.start(Program(f"program {number}", ["sh", "-c", script], 0.5))
        supervisor.watch()
        say("asked to stop")
    say("all have ended")
except ServiceError as error:
    sys.exit(str(error))
"""

ENDS_WHEN_ASKED = "trap 'echo {0} ends; exit' TERM; echo {0} runs; while :; do sleep 0.05; done"
ENDS_NEVER = "trap '' TERM; echo {0} runs; while :; do sleep 0.05; done"


def shell_of(supervisor: Running) -> int:
    """Return the process of the only program, `first`."""
    # The supervisor has the script among its own words, and the shell's child looks like the shell until
    # it has become `sleep`.
    _, shell, *_ = supervisor.left("first runs")
    return shell


def test_a_program_that_ends_starts_again(tmp_path: Path) -> None:
    """A program that ends is started again, and what it left behind is killed."""
    starts = tmp_path / "starts"
    script = f"echo x >> {starts}; sleep 1000 & exit 3"
    with Running.python(SUPERVISE, script) as supervisor:
        assert "program 0 ended: exit status 3" in supervisor.line_with("starts again")
        wait_until(lambda: starts.read_text().count("x") >= 3)
        assert supervisor.end() == 0
        wait_until(lambda: not supervisor.left())


def test_a_killed_program_starts_again() -> None:
    """A program that is killed is started again, and the line says which signal it was."""
    with Running.python(SUPERVISE, ENDS_WHEN_ASKED.format("first")) as supervisor:
        supervisor.line_with("first runs")
        os.kill(shell_of(supervisor), signal.SIGKILL)
        assert "killed by SIGKILL" in supervisor.line_with("starts again")
        supervisor.line_with("first runs")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_programs_end_in_reverse_order(number: signal.Signals) -> None:
    """Each of the three signals ends the programs, the last one first, and then the supervisor."""
    scripts = [ENDS_WHEN_ASKED.format(name) for name in ("first", "second")]
    # Where the tests themselves were started with nohup, so would it be.
    heard = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    with Running.python(heard + SUPERVISE, *scripts) as supervisor:
        supervisor.line_with("runs")
        supervisor.line_with("runs")
        assert supervisor.end(number) == 0
        assert supervisor.output().splitlines()[-4:] == [
            "asked to stop",
            "second ends",
            "first ends",
            "all have ended",
        ]


def test_nohup_is_heard() -> None:
    """Started with nohup, it goes on after a SIGHUP: a program that is killed then starts again."""
    deaf = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    with Running.python(deaf + SUPERVISE, ENDS_WHEN_ASKED.format("first")) as supervisor:
        supervisor.line_with("first runs")
        os.kill(supervisor.process.pid, signal.SIGHUP)
        os.kill(shell_of(supervisor), signal.SIGKILL)
        supervisor.line_with("starts again")
        supervisor.line_with("first runs")
        assert supervisor.end() == 0


def test_a_program_that_will_not_end_is_killed() -> None:
    """A program that ignores SIGTERM is killed after its bound, and the others still end in order."""
    scripts = [ENDS_WHEN_ASKED.format("first"), ENDS_NEVER.format("second")]
    with Running.python(SUPERVISE, *scripts) as supervisor:
        supervisor.line_with("runs")
        supervisor.line_with("runs")
        assert supervisor.end() == 0
        assert supervisor.output().splitlines()[-3:] == [
            "The program 1 has not ended in time and is killed.",
            "first ends",
            "all have ended",
        ]
        assert not supervisor.left()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_nothing_outlives_a_killed_supervisor() -> None:
    """SIGKILL to the supervisor ends its programs too, those that ignore SIGTERM included."""
    with Running.python(SUPERVISE, ENDS_NEVER.format("first").replace("while", "exec sleep 1000; while")) as supervisor:
        supervisor.line_with("runs")
        supervisor.end(signal.SIGKILL)
        wait_until(lambda: not supervisor.left())


def test_a_program_that_does_not_exist_stops_the_start() -> None:
    """A program that cannot be started at all is an error in one line."""
    script = SUPERVISE.replace('"sh", "-c", ', "")
    with Running.python(script, "/nonexistent/program") as supervisor:
        assert supervisor.process.wait(30) == 1
        assert supervisor.output() == "The program 0 cannot be started: No such file or directory."
