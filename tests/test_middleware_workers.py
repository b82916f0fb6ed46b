"""middleware, asgi: however a server spreads requests over processes, threads and greenlets, the ledger has them all.

Real servers, asked over HTTP by several clients at once; each client keeps its own tally, and the
ledger is held against the sum of them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from hitledger.ledger import LedgerStore
from hitledger.posting import Poster
from hitledger.settings import Settings
from tests.books import counts_of, routes_of
from tests.ports import free_port
from tests.processes import Running
from tests.support import wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
EXAMPLES = str(ROOT / "examples")
CLIENTS = 8
REQUESTS = 60
"""Requests of each client."""
GUNICORN = ["gunicorn", "--config", "/dev/null", "--chdir", EXAMPLES, "--bind", "127.0.0.1:{port}"]
UWSGI = [
    "pyuwsgi", "--master", "--die-on-term", "--need-app", "--http", "127.0.0.1:{port}", "--chdir", EXAMPLES,
    "--processes", "2",
]  # fmt: skip
SERVERS = {
    "gunicorn, two workers of four threads, preloaded": [
        *GUNICORN, "--preload", "--workers", "2", "--worker-class", "gthread", "--threads", "4", "flask_app:app",
    ],
    "gunicorn, one worker of 32 threads": [*GUNICORN, "--worker-class", "gthread", "--threads", "32", "flask_app:app"],
    "gunicorn, two gevent workers": [*GUNICORN, "--worker-class", "gevent", "--workers", "2", "flask_app:app"],
    "gunicorn, two gevent workers, preloaded": [
        *GUNICORN, "--worker-class", "gevent", "--workers", "2", "--preload", "flask_app:app",
    ],
    "uWSGI, two processes of two threads, forked after the import": [
        *UWSGI, "--threads", "2", "--module", "flask_app:app",
    ],
    "uvicorn, two workers": [
        "uvicorn", "--app-dir", EXAMPLES, "--port", "{port}", "--workers", "2", "starlette_app:app",
    ],
}  # fmt: skip


@contextmanager
def served(command: Sequence[str], settings: Settings) -> Iterator[str]:
    """Run a server; yields its address. It is ended in good order."""
    program, *rest = command
    if program == "pyuwsgi" and find_spec(program) is None:
        pytest.skip("there is no wheel of uWSGI for this machine: pip install pyuwsgi")
    port = free_port()
    words = [word.format(port=port) for word in rest]
    environment = {
        "HITLEDGER_REDIS_URL": str(settings.redis_url),
        "HITLEDGER_DATA_DIR": str(settings.data_dir),
        "HITLEDGER_KEY_PREFIX": settings.key_prefix,
    }
    start = [str(Path(sys.executable).with_name(program))] if program == "pyuwsgi" else [sys.executable, "-m", program]
    address = f"http://127.0.0.1:{port}"
    with Running([*start, *words], environment) as server:
        wait_until(lambda: answers(address) or server.process.poll() is not None)
        assert server.process.poll() is None, server.output()
        yield address
        server.end()


def answers(address: str) -> bool:
    """Tell whether a server answers, with a request that does not count."""
    try:
        return bool(requests.get(f"{address}/livez", timeout=5).status_code)
    except requests.RequestException:  # not there yet, or busy with its start
        return False


def ask_many(*addresses: str) -> Counter[str]:
    """Ask with several clients at once, each the addresses by turns; return what was answered, by URL and line."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        tallies = pool.map(lambda client: _ask(client, addresses), range(CLIENTS))
        return sum(tallies, Counter())


def _ask(client: int, addresses: Sequence[str]) -> Counter[str]:
    tally: Counter[str] = Counter()
    for number in range(REQUESTS):
        path = f"/hello/{(client + number) % 7}/" if number % 10 else f"/nothing/{number}"
        url = addresses[number % len(addresses)] + path
        answer = requests.get(url, timeout=20)  # a connection each, to whichever process takes it
        assert answer.status_code == (200 if number % 10 else 404)
        tally[urlsplit(url).path if number % 10 else "(unmatched)"] += 1
    return tally


def held(store: LedgerStore) -> Counter[str]:
    """Return what the ledger has by URL and by line."""
    return Counter(counts_of(store)) + Counter(store.totals().lines)


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_counts_what_its_clients_were_answered(name: str, settings: Settings, store: LedgerStore) -> None:
    """Each answer is posted while the server runs, and stands once in the ledger, by URL and route, after its end."""
    with served(SERVERS[name], settings) as address:
        tally = ask_many(address)
        wait_until(lambda: held(store) == tally)
    Poster(settings, store).post_now()
    assert held(store) == tally
    assert sum(routes_of(store).values()) == tally.total() - tally["(unmatched)"]


def test_a_server_that_runs_no_threads_loses_nothing(settings: Settings, store: LedgerStore) -> None:
    """Where uWSGI was not told to, it lets no thread run beside requests: what is not posted stays in the journal."""
    with served([*UWSGI, "--module", "flask_app:app"], settings) as address:
        tally = ask_many(address)
    Poster(settings, store).post_now()
    assert held(store) == tally


def test_applications_in_interpreters_of_their_own(settings: Settings, store: LedgerStore) -> None:
    """UWSGI runs each mounted application in a sub-interpreter: each counts under its mount point."""
    mounts = ["--manage-script-name", "--mount", "/a=flask_app:app", "--mount", "/b=bottle_app:app"]
    with served([*UWSGI, "--threads", "2", *mounts], settings) as address:
        tally = ask_many(f"{address}/a", f"{address}/b")
        wait_until(lambda: held(store) == tally)
    Poster(settings, store).post_now()
    assert held(store) == tally
    assert {route.rpartition("/hello/")[0] for route in routes_of(store)} == {"/a", "/b"}


def test_a_process_that_forks_after_it_counted(settings: Settings, store: LedgerStore) -> None:
    """Parent and child go on counting, each in a journal file of its own."""
    command = [*GUNICORN, "--chdir", str(ROOT), "--worker-class", "gthread", "--threads", "8", "tests.forking_app:app"]
    with served(command, settings) as address:
        tally = ask_many(address)
        child = requests.get(f"{address}/fork/", timeout=20).text.strip()
        tally += Counter({"/fork/": 1}) + ask_many(address, f"http://127.0.0.1:{child}")
        assert len(list(settings.journal_dir.glob("*.journal"))) == 2
        wait_until(lambda: held(store) == tally)
    Poster(settings, store).post_now()
    assert held(store) == tally
