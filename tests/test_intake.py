"""The intake: what it acknowledges is in the ledger once, whoever is killed and whatever is sent."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hitledger.audit import audit
from hitledger.intake import MOST_LINE_BYTES
from hitledger.journal import MOST_HITS
from hitledger.ledger import LedgerStore
from hitledger.posting import Poster
from hitledger.settings import Settings
from tests.books import counts_of
from tests.processes import Running
from tests.support import wait_until

CLIENTS = Path(__file__).parent.parent / "examples" / "clients"
INTAKE = [sys.executable, "-m", "hitledger", "intake"]
BOUNDED = """
import asyncio, sys
from pathlib import Path
import hitledger
from hitledger.intake import Bounds, Intake, listening
path, connections, idle, drain = sys.argv[1:]
with listening(Path(path), 0o660) as listener, hitledger.Counter() as counter:
    bounds = Bounds(int(connections), float(idle), float(drain))
    asyncio.run(Intake(counter, bounds).run(listener, lambda: print("Counting lines", flush=True)))
"""
"""An intake with bounds of a test's own."""


class Client:
    """One connection, as a program of any language has it."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(str(path))
        self._answers = self.socket.makefile("rb")

    def send(self, text: bytes) -> None:
        """Send whatever it is."""
        self.socket.sendall(text)

    def answer(self) -> bytes:
        """Return the next answer's line; nothing at the connection's end."""
        return self._answers.readline()

    def ask(self, text: bytes) -> bytes:
        """Send and return the next answer."""
        self.send(text)
        return self.answer()

    def close(self) -> None:
        """Close it."""
        self._answers.close()
        self.socket.close()


@pytest.fixture
def path(short_path: Path) -> Path:
    """Where the intake's socket is."""
    return short_path / "intake.sock"


@pytest.fixture
def environment(environment: dict[str, str], path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What an intake and its clients are told."""
    monkeypatch.setenv("HITLEDGER_INTAKE_SOCKET", str(path))
    return {**environment, "HITLEDGER_INTAKE_SOCKET": str(path)}


Start = Callable[..., Running]


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Start intakes, and wait until they listen; none outlives the test."""
    running: list[Running] = []

    def run(*words: str, command: list[str] = INTAKE) -> Running:
        running.append(Running([*command, *words], environment).__enter__())
        running[-1].line_with("Counting lines")
        return running[-1]

    yield run
    for each in running:
        each.__exit__(None, None, None)


Connect = Callable[[], Client]


@pytest.fixture
def connect(path: Path) -> Iterator[Connect]:
    """Connect clients; their connections end with the test."""
    clients: list[Client] = []

    def make() -> Client:
        clients.append(Client(path))
        return clients[-1]

    yield make
    for each in clients:
        each.close()


@pytest.fixture
def client(start: Start, connect: Connect) -> Client:
    """A client of a running intake."""
    start()
    return connect()


def is_counted(client: Client) -> bool:
    """Have a line counted, if the connection is not closed before it can send."""
    with suppress(OSError):
        return client.ask(b"/x\n") == b"ok\n"
    return False


def counts(settings: Settings, store: LedgerStore) -> dict[str, int]:
    """Return the ledger's counts once all that is journalled is posted, and see that the books balance."""
    Poster(settings, store).post_now()
    assert not audit(settings, store).differences
    return counts_of(store)


def test_each_line_is_counted_and_answered(client: Client, settings: Settings, store: LedgerStore) -> None:
    """A path is one hit, a number before it makes it many; the URL is what HTTP would have made of it."""
    lines = [
        b"/jobs/resize", b"3 /jobs/resize", b"/jobs/resize?size=2\r", b"007 /%c3%a4", b"/\xc3\xa4", b"/\xff", b"/",
        b"%d /most" % MOST_HITS, b"/" + b"x" * 3000,
    ]  # fmt: skip
    client.send(b"\n".join(lines) + b"\n")
    assert [client.answer() for _ in lines] == [b"ok\n"] * len(lines)
    assert counts(settings, store) == {"/jobs/resize": 5, "/%C3%A4": 8, "/%FF": 1, "/": 1, "/most": MOST_HITS}
    assert store.totals().lines == {"(oversized)": 1}


HOSTILE = [
    b"", b"\r", b" ", b"x", b"GET /x HTTP/1.1", b"/a b", b"/x\0y", b"\0", b"/\x1b[2J", b"/x\ry", b"\xef\xbb\xbf/x",
    b"3", b"3 ", b"3  /x", b"-1 /x", b"0 /x", b"1.5 /x", b"%d /x" % (MOST_HITS + 1), b"9" * 5000 + b" /x",
    b"\xd9\xa1 /x", b"\x80\xfe", bytes(range(11, 256)), b"/" + b"y" * MOST_LINE_BYTES, b"/" + b"z" * 2**20,
]  # fmt: skip


def test_bad_lines_are_answered_and_not_counted(client: Client, settings: Settings, store: LedgerStore) -> None:
    """Whatever bytes a line has, it is one error in printable ASCII, and the lines around it count."""
    for line in HOSTILE:
        answer = client.ask(line + b"\n")
        assert answer.startswith(b"error ")
        assert answer.decode("ascii").rstrip("\n").isprintable()
        assert client.ask(b"/good\n") == b"ok\n"
    assert counts(settings, store) == {"/good": len(HOSTILE)}


def test_lines_may_come_in_any_pieces(client: Client, settings: Settings, store: LedgerStore) -> None:
    """Where one write ends and the next begins means nothing; a last line without an end is not counted."""
    text = b"".join(b"%d /%d\n" % (number, number % 5) for number in range(1, 200)) + b"/half a li"
    rng = random.Random(7)
    while text:
        cut = rng.randint(1, 40)
        client.send(text[:cut])
        text = text[cut:]
    client.socket.shutdown(socket.SHUT_WR)
    assert [client.answer() for _ in range(199)] == [b"ok\n"] * 199
    assert client.answer().startswith(b"error The last line")
    assert client.answer() == b""
    assert counts(settings, store) == {f"/{rest}": sum(n for n in range(1, 200) if n % 5 == rest) for rest in range(5)}


@pytest.mark.slow
def test_many_connections_at_once(start: Start, connect: Connect, settings: Settings, store: LedgerStore) -> None:
    """Each connection has the answers to its own lines, however many there are."""
    start()
    clients = [connect() for _ in range(200)]
    for turn in range(3):
        for number, each in enumerate(clients):
            each.send(b"/bad line\n/%d\n" % number if (number + turn) % 7 == 0 else b"/%d\n" % number)
    for number, each in enumerate(clients):
        bad = sum((number + turn) % 7 == 0 for turn in range(3))
        answers = Tally(each.answer() for _ in range(3 + bad))
        assert answers[b"ok\n"] == 3
    assert counts(settings, store) == {f"/{number}": 3 for number in range(200)}


class Sender(threading.Thread):
    """Sends lines without waiting for each answer, and tallies what was sent and what was acknowledged."""

    def __init__(self, client: Client, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._client = client
        self.sent = self.acknowledged = 0

    def run(self) -> None:
        """Send until the connection breaks."""
        rng = random.Random(self.name)
        with suppress(OSError):
            while True:
                ahead = [rng.randint(1, 9) for _ in range(rng.randint(1, 50))]
                self.sent += sum(ahead)
                self._client.send(b"".join(b"%d /%b\n" % (hits, self.name.encode()) for hits in ahead))
                for hits in ahead:
                    if self._client.answer() != b"ok\n":
                        return
                    self.acknowledged += hits


@pytest.mark.slow
def test_kill_9_of_the_intake(start: Start, connect: Connect, settings: Settings, store: LedgerStore) -> None:
    """What was acknowledged is in the ledger, and no more than was sent; the next start takes the socket over."""
    tally: Tally[str] = Tally()
    most: Tally[str] = Tally()
    for turn in range(3):
        intake = start()
        senders = [Sender(connect(), f"{turn}-{number}") for number in range(4)]
        for sender in senders:
            sender.start()
        wait_until(lambda senders=senders: all(each.acknowledged > 500 for each in senders))  # type: ignore[misc]
        intake.process.kill()
        for sender in senders:
            sender.join(30)
            tally["/" + sender.name], most["/" + sender.name] = sender.acknowledged, sender.sent
    found = counts(settings, store)
    assert found.keys() == tally.keys()
    for name, hits in found.items():
        assert tally[name] <= hits <= most[name]


@pytest.mark.slow
def test_sigterm_drains(start: Start, connect: Connect, path: Path, store: LedgerStore) -> None:
    """What was sent before is counted, answered and posted; the client then sees that no more is taken."""
    intake, client = start(), connect()
    assert client.ask(b"/x\n") == b"ok\n"
    # While the intake sleeps, lines fill the socket: more than it reads at once when it wakes to the signal.
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
    lines, line = 0, b"/x?%b\n" % (b"y" * 1020)
    intake.process.send_signal(signal.SIGSTOP)
    client.socket.settimeout(0)
    with suppress(BlockingIOError):
        while client.socket.send(line) == len(line):
            lines += 1
    client.socket.settimeout(30)
    assert lines * len(line) > 2**18
    intake.process.send_signal(signal.SIGTERM)
    assert intake.end(signal.SIGCONT) == 0
    assert [client.answer() for _ in range(lines + 1)] == [b"ok\n"] * lines + [b""]
    with pytest.raises(BrokenPipeError):
        client.send(b"/late\n")
    assert counts_of(store) == {"/x": lines + 1}
    assert not path.exists()


@pytest.mark.slow
def test_who_reads_no_answers_is_made_to_wait(
    start: Start, connect: Connect, path: Path, settings: Settings, store: LedgerStore
) -> None:
    """A client that only sends is held back before it takes memory, and delays neither others nor the end."""
    intake = start(str(path), "9", "600", "0.2", command=[sys.executable, "-c", BOUNDED])
    deaf, other = connect(), connect()
    deaf.socket.settimeout(0.5)
    sent = 0
    with suppress(TimeoutError):
        while sent < 16 * 2**20:
            sent += deaf.socket.send(b"/deaf/\n" * 5000)
    assert sent < 16 * 2**20
    assert other.ask(b"/other\n") == b"ok\n"
    assert intake.end() == 0
    found = counts(settings, store)
    assert found["/other"] == 1
    assert found["/deaf/"] <= sent // 7


def test_one_connection_too_many(start: Start, connect: Connect, path: Path) -> None:
    """It is told so and closed, the others go on, and there is room again when one of them has left."""
    start(str(path), "2", "600", "5", command=[sys.executable, "-c", BOUNDED])
    first, second = connect(), connect()
    assert [each.ask(b"/x\n") for each in (first, second)] == [b"ok\n"] * 2
    third = connect()
    assert third.answer().startswith(b"error There are too many connections")
    assert third.answer() == b""
    assert second.ask(b"/x\n") == b"ok\n"
    first.close()
    wait_until(lambda: is_counted(connect()))


def test_an_idle_connection_is_closed(
    start: Start, connect: Connect, path: Path, settings: Settings, store: LedgerStore
) -> None:
    """Its client sees an end, and cannot send what nobody would read."""
    start(str(path), "9", "0.1", "5", command=[sys.executable, "-c", BOUNDED])
    idle = connect()
    assert idle.answer() == b""
    with pytest.raises(BrokenPipeError):
        idle.send(b"/late\n")
    wait_until(lambda: is_counted(connect()))
    assert counts(settings, store) == {"/x": 1}


@pytest.mark.slow
def test_the_socket_is_for_its_group(start: Start, path: Path) -> None:
    """Others may not connect, unless the operator says so, whatever the umask is."""
    umask = os.umask(0o077)
    try:
        for words, mode in (((), 0o660), (("--mode", "0606"), 0o606)):
            intake = start(*words)
            assert stat.S_IMODE(path.stat().st_mode) == mode
            assert intake.end() == 0
    finally:
        os.umask(umask)


def test_hits_that_cannot_be_journalled_are_not_acknowledged(
    environment: dict[str, str], start: Start, connect: Connect, settings: Settings, store: LedgerStore
) -> None:
    """With the journal at its cap, a line's answer is an error; once there is room, lines count again."""
    environment["HITLEDGER_JOURNAL_CAP_BYTES"] = "65536"
    settings.journal_dir.mkdir(parents=True)
    stuffing = settings.journal_dir / "stuffing.journal"
    stuffing.write_bytes(b" " * 65536)
    start()
    answers: list[bytes] = []

    def goes_on() -> bool:
        answers.append(connect().ask(b"/x\n"))
        return answers[-1] == b"ok\n"

    wait_until(lambda: not goes_on())
    assert answers[-1] == b"error The journal cannot be written: the hits are lost, and the balance says so.\n"
    stuffing.unlink()
    wait_until(goes_on)
    assert counts(settings, store) == {"/x": answers.count(b"ok\n")}


@pytest.mark.slow
def test_a_living_socket_is_refused(path: Path, client: Client) -> None:
    """A second intake says in one line who is there, and the first one goes on."""
    ended = subprocess.run(INTAKE, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "listens on" in ended.stderr
    assert client.ask(b"/x\n") == b"ok\n"
    assert path.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text"),
    [("file", "is no socket"), ("nowhere/intake.sock", "No such file"), ("x" * 108, "too long")],
)
def test_a_socket_that_cannot_be(environment: dict[str, str], short_path: Path, name: str, text: str) -> None:
    """What stands there is left alone, and one line says what is wrong."""
    del environment
    (short_path / "file").write_text("precious")
    words = [*INTAKE, "--socket", str(short_path / name)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert text in ended.stderr
    assert (short_path / "file").read_text() == "precious"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "command"),
    [
        ("socat", [str(CLIENTS / "count.sh")]),
        ("node", ["node", str(CLIENTS / "count.mjs")]),
        pytest.param("gccgo", [], marks=pytest.mark.slow),
    ],
)
def test_clients_in_other_languages(
    start: Start, settings: Settings, store: LedgerStore, tmp_path: Path, program: str, command: list[str]
) -> None:
    """The examples count, end well once they have, and say why where they have not."""
    if not shutil.which(program):
        pytest.skip(f"needs {program}; .ci/run installs it")
    if program == "gccgo":
        command = [str(tmp_path / "count")]
        subprocess.run(["gccgo", "-o", *command, CLIENTS / "count.go"], check=True)
    intake = start()
    for words in (["/from/elsewhere"], ["/from/elsewhere", "41"]):
        ended = subprocess.run([*command, *words], capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    none = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert none.returncode == 1
    bad = subprocess.run([*command, "/a b"], capture_output=True, text=True, timeout=60, check=False)
    assert bad.returncode == 1
    assert "percent-encoded" in bad.stderr
    assert counts(settings, store) == {"/from/elsewhere": 42}
    intake.end()
    gone = subprocess.run([*command, "/x"], capture_output=True, text=True, timeout=60, check=False)
    assert gone.returncode == 1
    assert gone.stderr


@pytest.mark.slow
def test_a_program_of_node_s_ends_by_itself(
    start: Start, settings: Settings, store: LedgerStore, tmp_path: Path
) -> None:
    """A program that uses the client's file counts what it means to, whatever its own arguments are, and ends."""
    if not shutil.which("node"):
        pytest.skip("needs node; .ci/run installs it")
    start()
    program = tmp_path / "job.mjs"
    program.write_text(f"""
        import {{ count }} from "{CLIENTS / "count.mjs"}";
        await Promise.all([count("/job"), count("/job", 2)]);
        await count("/job", 4);
    """)
    subprocess.run(["node", program, "/not-this"], check=True, timeout=60)
    assert counts(settings, store) == {"/job": 7}
