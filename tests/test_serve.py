"""The whole service, as a user starts it: real processes, killed and ended in every way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest
import redis

import hitledger
from hitledger.embedded import EmbeddedValkey
from hitledger.errors import ServiceError
from hitledger.ledger import LedgerStore
from hitledger.serve import address_of, check_port, hold_data_folder, shown_url
from hitledger.settings import Settings
from tests.guarded import start_valkey
from tests.ports import free_port
from tests.processes import Running
from tests.support import Valkey, wait_until


class Service(Running):
    """A `hitledger serve` on a port of its own."""

    def __init__(self, data_dir: Path, *options: str, **settings: str) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        environment = {"HITLEDGER_DATA_DIR": str(data_dir), "HITLEDGER_PORT": str(self.port), **settings}
        super().__init__([sys.executable, "-m", "hitledger", "serve", *options], environment, data_dir)

    def get(self, path: str) -> Any:
        """Request a path and return the JSON of the answer."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return json.load(answer)

    def tests_itself(self) -> bool:
        """Tell whether a test run can be carried out: web, ledger, queue and worker are all there."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/test/3/", method="POST")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return bool(json.load(answer)["succeeded"] == 3)
        except urllib.error.HTTPError as error:
            error.close()
            return False

    def counted(self) -> dict[str, int]:
        """Return what `/stats/` reports below /api/."""
        return {row["url"]: row["requests"] for row in self.get("/stats/")["urls"] if row["url"].startswith("/api/")}

    def answers(self) -> bool:
        """Tell whether the service answers and has its ledger."""
        return self.counted_now() is not None

    def counted_now(self) -> dict[str, int] | None:
        """Return what `counted` returns, or None while that is not to be had."""
        try:
            return self.counted()
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:  # refused or reset
            pass
        return None


@contextmanager
def serving(data_dir: Path, *options: str, **settings: str) -> Iterator[Service]:
    """Run a service until the block is left."""
    with Service(data_dir, *options, **settings) as service:
        service.line_with("Serving on")
        yield service


@contextmanager
def requests_to(service: Service, path: str) -> Iterator[Callable[[], int]]:
    """Request a path again and again in the background; yield the number of answers so far."""
    answered = 0
    stop = threading.Event()

    def request() -> None:
        nonlocal answered
        while not stop.is_set():
            with suppress(OSError, HTTPException):  # refused, reset, or cut off in the middle of an answer
                service.get(path)
                answered += 1

    thread = threading.Thread(target=request)
    thread.start()
    try:
        yield lambda: answered
    finally:
        stop.set()
        thread.join()


def booked(data_dir: Path) -> dict[str, int]:
    """Return what the embedded ledger of a folder holds below /api/, with no service to post anything."""
    valkey = EmbeddedValkey(data_dir)
    with Running(["sh", "-c", 'cd "$0" && exec "$@"', valkey.directory, *valkey.command]):
        wait_until(valkey.answers)
        with redis.Redis.from_url(valkey.url, decode_responses=True) as client:
            found = client.zrange("hitledger:{0}:all", 0, -1, withscores=True)
        return {url: int(hits) for url, hits in found if url.startswith("/api/")}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """One service for the tests that leave it running."""
    directory = tempfile.TemporaryDirectory(prefix="hitledger-", ignore_cleanup_errors=True)
    with directory, serving(Path(directory.name)) as service:
        yield service


@pytest.fixture
def own_valkey(short_path: Path) -> Iterator[Valkey]:
    """A Valkey of the test's own, to be stopped and started."""
    (short_path / "valkey").mkdir()
    server = start_valkey(short_path / "valkey")
    yield server
    server.stop()


def test_the_first_lines_say_what_matters(service: Service) -> None:
    """A newcomer reads the version, where the data is, the address and how to stop, and no warnings."""
    assert service.lines[0].startswith("hitledger 0.")
    assert service.lines[0].endswith(str(service.data_dir))
    serving_line = service.lines[-1]
    assert serving_line.startswith(f"Serving on http://localhost:{service.port} ")
    assert "Ctrl-C" in serving_line
    assert not any("WARNING" in line or "ERROR" in line for line in service.lines)


def test_stats_are_never_stale(service: Service) -> None:
    """After a request, `/stats/` shows it at once, whichever web process answers."""
    for count in range(1, 51):
        service.get("/api/fresh/")
        assert service.counted()["/api/fresh/"] == count


def test_no_answer_names_the_server_software(service: Service) -> None:
    """Answers carry one `Server`, the service's own name, whatever they are."""
    for path in ("/livez", "/api/x/", "/", "/nothing"):
        connection = HTTPConnection("127.0.0.1", service.port)
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.headers.get_all("Server") == ["hitledger"]
        connection.close()


def test_a_second_service_is_refused(service: Service) -> None:
    """Another start on the same folder says so in one line and ends with status 1."""
    with Service(service.data_dir) as second:
        assert second.process.wait(30) == 1
        assert second.output() == (
            f"hitledger: A service already runs on {service.data_dir} (process {service.process.pid}). "
            "Stop it, or set HITLEDGER_DATA_DIR to another folder."
        )


def test_a_port_in_use_is_refused(service: Service, tmp_path: Path) -> None:
    """A start on a port where somebody listens says so in one line and ends with status 1."""
    with Service(tmp_path, "--port", str(service.port)) as second:
        assert second.process.wait(30) == 1
        assert second.output() == (
            f"hitledger: Port {service.port} on 127.0.0.1 cannot be had: Address already in use. "
            "Stop what listens there, or set HITLEDGER_PORT to another."
        )


@pytest.mark.parametrize("victim", ["valkey-server", "hitledger worker", "hitledger web"])
def test_what_is_killed_comes_back(service: Service, victim: str) -> None:
    """SIGKILL to a part of the service in mid-traffic loses nothing that was answered; the part comes back."""
    path = f"/api/{victim.replace(' ', '-')}/"
    with requests_to(service, path) as answered:
        wait_until(lambda: answered() > 20)
        killed = service.left(victim)
        # Of the web processes, the main one is the oldest: Granian's own worker is killed here.
        os.kill(killed[-1], signal.SIGKILL)
        wait_until(lambda: len(set(service.left(victim)) - set(killed)) > 0)
        wait_until(service.answers)
        before = answered()
        wait_until(lambda: answered() > before + 20)
        wait_until(service.tests_itself)
    # The other web process may take the ledger for away a moment longer, and tell its readers so.
    counted = wait_until(service.counted_now)
    # A request that was cut off may have been received, and then it counts.
    assert answered() <= counted[path] <= answered() + 1


@pytest.mark.slow
def test_ctrl_c_and_again(short_path: Path) -> None:
    """Ctrl-C ends everything with all booked and no process left; the next start has the counts."""
    with serving(short_path, HITLEDGER_POSTING_INTERVAL_MS="60000") as service:
        for _ in range(30):
            service.get("/api/kept/")
        assert service.end(signal.SIGINT, seconds=10) == 0
        assert service.output().endswith("Stopped. The counts are kept.")
        assert not service.left()
    assert booked(short_path) == {"/api/kept/": 30}
    with serving(short_path) as service:
        assert service.counted() == {"/api/kept/": 30}
        assert service.end(seconds=10) == 0


def test_one_service_at_a_time(tmp_path: Path) -> None:
    """A data folder is held once; it is free again when its holder is done."""
    folder = tmp_path / "new"
    refused = pytest.raises(ServiceError, match=f"process {os.getpid()}")
    with hold_data_folder(folder), refused, hold_data_folder(folder):
        pass
    with hold_data_folder(folder):
        pass


@pytest.mark.slow
def test_what_a_killed_service_left_is_waited_for(tmp_path: Path) -> None:
    """Where the holder is gone but a process of it is not yet, the next start waits for that."""
    script = (
        "import os, subprocess, sys\nfrom pathlib import Path\nfrom hitledger.serve import hold_data_folder\n"
        "with hold_data_folder(Path(sys.argv[1])) as lock:\n"
        "    subprocess.Popen(['sh', '-c', 'echo left; sleep 0.5'], pass_fds=[lock])\n"
        "    os._exit(0)\n"
    )
    with Running.python(script, str(tmp_path)) as holder:
        holder.line_with("left")
        holder.process.wait(10)
        with hold_data_folder(tmp_path):
            assert not holder.left("sh")


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """A data folder that cannot be made is named, with what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(ServiceError, match="HITLEDGER_DATA_DIR"), hold_data_folder(tmp_path / "file" / "data"):
        pass


def test_addresses() -> None:
    """A host is listened on by its number; the address shown is what one types."""
    assert address_of("localhost") in ("127.0.0.1", "::1")
    assert address_of("::1") == "::1"
    with pytest.raises(ServiceError, match="HITLEDGER_HOST"):
        address_of("no.such.host.invalid")
    assert shown_url(Settings(host="0.0.0.0", port=5055)) == "http://localhost:5055"
    assert shown_url(Settings(host="fe80::1", port=5055)) == "http://[fe80::1]:5055"


def test_a_shared_port_is_refused() -> None:
    """A port is refused, too, where its listener would share it."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(ServiceError, match="already in use"):
            check_port(Settings(port=listener.getsockname()[1]))


@pytest.mark.slow
def test_the_end_in_mid_traffic(short_path: Path) -> None:
    """SIGTERM in mid-traffic ends everything within 10 s, with all that was answered booked."""
    with serving(short_path) as service, requests_to(service, "/api/busy/") as answered:
        wait_until(lambda: answered() > 100)
        assert service.end(signal.SIGTERM, seconds=10) == 0
        assert not service.left()
        done = answered()
    assert done <= booked(short_path)["/api/busy/"] <= done + 1


@pytest.mark.slow
def test_a_killed_service_leaves_nothing_behind(short_path: Path) -> None:
    """SIGKILL to the service's main process ends all others; an immediate start has every count."""
    with serving(short_path) as service:
        with requests_to(service, "/api/killed/") as answered:
            wait_until(lambda: answered() > 100)
            service.end(signal.SIGKILL)
        with serving(short_path) as second:
            assert answered() <= second.counted()["/api/killed/"] <= answered() + 1
        assert not service.left()


@pytest.mark.slow
def test_the_web_server_comes_back(service: Service) -> None:
    """SIGKILL to the web server's main process takes its workers along, and all of it comes back."""
    old = service.left("hitledger web")
    os.kill(old[0], signal.SIGKILL)
    wait_until(lambda: not set(old) & set(service.left("hitledger web")))
    wait_until(service.answers)


@pytest.mark.slow
def test_a_ledger_that_comes_later(short_path: Path, own_valkey: Valkey) -> None:
    """With a ledger that is down, the service starts, says so, answers, and posts when the ledger comes."""
    valkey = own_valkey
    valkey.stop()
    with serving(short_path / "data", HITLEDGER_REDIS_URL=valkey.url, HITLEDGER_KEY_PREFIX="test-serve") as service:
        assert any("Starting without the ledger" in line for line in service.lines)
        for _ in range(10):
            service.get("/api/early/")
        with pytest.raises(urllib.error.HTTPError, match="503"):
            service.counted()
        valkey.start()
        # A web process that has just found the ledger away says so for a moment longer.
        wait_until(lambda: service.counted_now() == {"/api/early/": 10})
        assert service.end(seconds=10) == 0


@pytest.mark.slow
def test_a_ledger_that_is_down_at_the_end(short_path: Path, own_valkey: Valkey) -> None:
    """With a ledger that is down, the end is still within 10 s, is told, and loses nothing."""
    valkey = own_valkey
    with serving(short_path / "data", HITLEDGER_REDIS_URL=valkey.url, HITLEDGER_KEY_PREFIX="test-serve") as service:
        valkey.stop()
        service.get("/api/late/")
        assert service.end(seconds=10) == 0
        assert "still in the journal" in service.output()
    valkey.start()
    with serving(short_path / "data", HITLEDGER_REDIS_URL=valkey.url, HITLEDGER_KEY_PREFIX="test-serve") as service:
        assert service.counted() == {"/api/late/": 1}


@pytest.mark.slow
def test_a_ledger_that_does_not_fit_stops_the_start(valkey: Valkey, tmp_path: Path) -> None:
    """A ledger made with other shards is refused in one line, with status 1."""
    settings = {"HITLEDGER_REDIS_URL": valkey.url, "HITLEDGER_KEY_PREFIX": "test-misfit"}
    with serving(tmp_path, HITLEDGER_SHARDS="2", **settings) as service:
        service.end()
    with Service(tmp_path, HITLEDGER_SHARDS="3", **settings) as service:
        assert service.process.wait(30) == 1
        last = service.output().splitlines()[-1]
        assert last.startswith("hitledger: ")
        assert "HITLEDGER_SHARDS asks for 3" in last


@pytest.mark.slow
def test_reloading(short_path: Path) -> None:
    """With `--dev`, new web processes and a new worker take over when a file of the package changes."""
    package = short_path / "source" / "hitledger"
    shutil.copytree(Path(hitledger.__file__).parent, package)
    with serving(short_path / "data", "--dev", PYTHONPATH=str(package.parent)) as service:
        old = set(wait_until(lambda: service.left("spawn_main")))
        with (package / "errors.py").open("a") as file:
            file.write("# changed\n")
        wait_until(lambda: not old & set(service.left("spawn_main")))
        wait_until(service.answers)
        assert service.end(seconds=10) == 0
        assert not service.left()


def gunicorn(**settings: str) -> Running:
    """Run gunicorn with the configuration that is shipped."""
    configuration = Path(__file__).parent.parent / "gunicorn.conf.py"
    command = [sys.executable, "-m", "gunicorn", "-c", str(configuration), "hitledger:create_app()"]
    return Running(command, settings)


@pytest.mark.slow
def test_gunicorn_needs_a_ledger() -> None:
    """Without a ledger, gunicorn does not start, and one line says what to set."""
    with gunicorn() as server:
        assert server.process.wait(30) == 1
        assert server.output().startswith("hitledger: No ledger is set. Set HITLEDGER_REDIS_URL; ")
        assert len(server.lines) == 1


@pytest.mark.slow
def test_gunicorn_posts_what_is_left(settings: Settings, store: LedgerStore) -> None:
    """Under gunicorn the application is served, and when that ends, everything is booked."""
    environment = {
        "HITLEDGER_REDIS_URL": str(settings.redis_url),
        "HITLEDGER_DATA_DIR": str(settings.data_dir),
        "HITLEDGER_KEY_PREFIX": settings.key_prefix,
        "HITLEDGER_PORT": str(free_port()),
        "HITLEDGER_POSTING_INTERVAL_MS": "60000",
    }
    url = f"http://127.0.0.1:{environment['HITLEDGER_PORT']}"
    with gunicorn(**environment) as server:
        server.line_with("Booting worker")
        for _ in range(10):
            with urllib.request.urlopen(f"{url}/api/left/", timeout=20) as answer:
                assert answer.status == 200
        assert server.end(seconds=10) == 0
        server.output()
    assert store.reader(0).zscore(store.set_key(0), "/api/left/") == 10
