"""`hitledger serve`: one command that runs the whole service on one machine.

    supervisor -- Valkey              only where HITLEDGER_REDIS_URL is unset
               -- hitledger worker    Celery, for test runs
               -- hitledger web       Granian's main process -- its workers

Started in this order, ended in the other. Guarantee: one service at a time on a data folder,
and nothing of it is left running or unposted when it has ended in good order. After SIGKILL
nothing is left running, and the journal holds what was not posted.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from hitledger.doctor import startup_checks, stop_on_failure
from hitledger.embedded import EmbeddedValkey
from hitledger.errors import LedgerError, LedgerUnavailableError, ServiceError
from hitledger.findings import WARN
from hitledger.ledger import LedgerStore
from hitledger.posting import Poster
from hitledger.settings import Settings
from hitledger.supervision import Program, Supervisor

log = logging.getLogger("hitledger.serve")

# Together under 10 s: the time that container engines and this project's promise give.
WEB_STOP_SECONDS = 6.0
WORKER_STOP_SECONDS = 2.0
VALKEY_STOP_SECONDS = 1.5

VALKEY_READY_SECONDS = 2.0
"""Then the rest starts all the same: a big ledger takes long to load, and hits wait in the journal."""
WEB_READY_SECONDS = 60.0
LEFTOVER_SECONDS = 5.0
"""How long what a killed service has left behind may take to end."""
PORT_SECONDS = 0.3
LAST_POSTING_SECONDS = 2.5


def serve(environment: Mapping[str, str], say: Callable[[str], None], *, dev: bool = False) -> None:
    """Run the service until SIGTERM, SIGINT or SIGHUP.

    Its processes read `environment`, with the data folder and the ledger's address filled in.

    Raises:
        SettingsError: a setting is wrong. ServiceError: the service cannot be started here.
        LedgerError: the ledger refuses for good; one that is away is waited for.
    """
    settings = Settings.from_environment(environment)
    if dev:
        require_watchfiles()
    data_dir = settings.data_dir.absolute()
    with hold_data_folder(data_dir) as lock:
        check_port(settings)
        environment = {**environment, "HITLEDGER_DATA_DIR": str(data_dir)}
        where = f"its ledger and journal are in {data_dir}"
        if settings.redis_url:
            where = f"its journal is in {data_dir}"
        say(f"hitledger {version('hitledger')}: {where}")
        with Supervisor(say, [lock]) as supervisor:
            if settings.redis_url is None:
                environment["HITLEDGER_REDIS_URL"] = start_valkey(supervisor, data_dir)
            _start_service(supervisor, environment, say, dev=dev)
            supervisor.watch()
            say("Stopping: what is being answered is finished, and what is left is posted.")
        say("Stopped. The counts are kept.")


def start_valkey(supervisor: Supervisor, data_dir: Path) -> str:
    """Start the embedded Valkey and return its address. Raises ServiceError."""
    valkey = EmbeddedValkey(data_dir)
    valkey.prepare()
    program = Program(
        "embedded Valkey", valkey.command, VALKEY_STOP_SECONDS, directory=valkey.directory, hint=f"See {valkey.log}."
    )
    supervisor.start(program, valkey.answers, VALKEY_READY_SECONDS)
    return valkey.url


def _start_service(
    supervisor: Supervisor, environment: Mapping[str, str], say: Callable[[str], None], *, dev: bool
) -> None:
    settings = Settings.from_environment(environment)
    if not supervisor.stopping():
        check_ledger(settings, say)
    options = ["--dev"] if dev else []
    ours = [sys.executable, "-P", "-m", "hitledger"]
    worker = Program("worker", [*ours, "worker", *options], WORKER_STOP_SECONDS, environment)
    web = Program("web server", [*ours, "web", *options], WEB_STOP_SECONDS, environment)
    supervisor.start(worker)
    if supervisor.start(web, lambda: answers_http(settings), WEB_READY_SECONDS):
        processes = f"{settings.workers} web process{'' if settings.workers == 1 else 'es'}"
        say(f"Serving on {shown_url(settings)} with {processes}. Ctrl-C stops it.")


@contextmanager
def hold_data_folder(data_dir: Path) -> Iterator[int]:
    """Let one service at a time onto a data folder; yield the descriptor of its lock.

    The service's processes inherit the descriptor, so that the lock is free only when the
    last of them is gone.

    Raises:
        ServiceError: another service is on it, or it cannot be used.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(data_dir / "service.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ServiceError(
            f"The data folder {data_dir} cannot be used: {error.strerror}.",
            "Set HITLEDGER_DATA_DIR to a folder that you may write to.",
        ) from error
    try:
        _lock(lock, data_dir)
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        yield lock
    finally:
        os.close(lock)


def _lock(lock: int, data_dir: Path) -> None:
    deadline = time.monotonic() + LEFTOVER_SECONDS
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        owner = os.pread(lock, 20, 0).strip().decode("ascii", "replace")
        if _is_alive(owner) or time.monotonic() > deadline:
            raise ServiceError(
                f"A service already runs on {data_dir} (process {owner or 'unknown'}).",
                "Stop it, or set HITLEDGER_DATA_DIR to another folder.",
            )
        time.sleep(0.02)


def _is_alive(pid: str) -> bool:
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def check_port(settings: Settings) -> None:
    """See that the service may listen where it should, on its admin port too.

    Granian would share a port with anybody who lets it (SO_REUSEPORT), so this asks without.

    Raises:
        ServiceError: it may not, or something listens there already.
    """
    address = address_of(settings.host)
    deadline = time.monotonic() + PORT_SECONDS
    for port, name in ((settings.port, "HITLEDGER_PORT"), (settings.admin_port, "HITLEDGER_ADMIN_PORT")):
        while port and (error := _refusal(address, port)):
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise ServiceError(
                    f"Port {port} on {settings.host} cannot be had: {error.strerror}.",
                    f"Stop what listens there, or set {name} to another.",
                ) from error
            time.sleep(0.05)


def _refusal(address: str, port: int) -> OSError | None:
    try:
        with socket.socket(_family(address)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError as error:
        return error
    return None


def check_ledger(settings: Settings, say: Callable[[str], None]) -> None:
    """Look at the host and the ledger before anything counts; a ledger that is away now is waited for.

    Raises:
        LedgerError: it does not fit, or refuses for good.
        ServiceError: counts would be lost or doubled here in silence.
    """
    store = LedgerStore(settings)
    try:
        try:
            store.open()
        except LedgerUnavailableError as error:
            say(f"Starting without the ledger: {error}")
        findings = startup_checks(settings, store)
    finally:
        store.close()
    for each in findings:
        if each.status == WARN:
            say(f"Warning: {each}")
    stop_on_failure(findings)


def post_what_is_left(settings: Settings, seconds: float = LAST_POSTING_SECONDS) -> None:
    """Post what this host's journal holds; say so where the ledger does not take it in time."""
    thread = threading.Thread(target=_post, args=(settings,), name="hitledger-last-posting", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        log.warning("stopped with hits still in the journal: the ledger is slow. They are posted at the next start.")


def _post(settings: Settings) -> None:
    store = LedgerStore(settings)
    try:
        Poster(settings, store).post_now()
    except LedgerError as error:
        log.warning("stopped with hits still in the journal: %s They are posted at the next start.", error)


def require_watchfiles() -> None:
    """Raise ServiceError where reloading cannot work."""
    if find_spec("watchfiles") is None:
        raise ServiceError("--dev needs the package watchfiles.", "Install hitledger[dev].")


def address_of(host: str) -> str:
    """Return the numeric address to listen on.

    Raises:
        ServiceError: the name has none.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ServiceError(f"The host {host} has no address here.", "Set HITLEDGER_HOST to an address.") from error
    return str(found[0][4][0])


def answers_http(settings: Settings) -> bool:
    """Tell whether the web processes answer now, on the admin port too where there is one.

    The admin port answers a moment before the server listens on the service's own.
    """
    address = address_of(settings.host)
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104 - compared, not bound
    try:
        with _connected(address, settings.port) as service:
            if not settings.admin_port:
                return _is_live(service)
            with _connected(address, settings.admin_port) as admin:
                return _is_live(admin)
    except OSError:
        return False


def _connected(address: str, port: int) -> socket.socket:
    return socket.create_connection((address, port), timeout=1.0)


def _is_live(connection: socket.socket) -> bool:
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    return connection.recv(64)[:12] in (b"HTTP/1.1 200", b"HTTP/1.0 200")


def shown_url(settings: Settings) -> str:
    """Return the address that a user on this machine types."""
    local = settings.host in ("127.0.0.1", "0.0.0.0", "::1", "::", "localhost")  # noqa: S104 - compared, not bound
    host = "localhost" if local else settings.host
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
