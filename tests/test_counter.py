"""`hitledger.Counter`: what it says is counted is in the ledger, once, however its process ends."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import celery
import pytest

import hitledger
from hitledger.audit import audit
from hitledger.counting import HitCounter
from hitledger.errors import CountError, JournalError
from hitledger.journal import HEADER_BYTES, MOST_HITS
from hitledger.ledger import LedgerStore
from hitledger.posting import Poster
from hitledger.settings import Settings
from tests.books import counts_of, routes_of
from tests.processes import Running
from tests.proxy import Proxy
from tests.support import Valkey, wait_until


@pytest.fixture
def counter(environment: dict[str, str]) -> Iterator[hitledger.Counter]:
    """A counter with settings from its environment."""
    del environment
    with hitledger.Counter() as counter:
        yield counter


def post(settings: Settings, store: LedgerStore) -> None:
    """Post what is in the journal, as the next start does, and see that the books balance."""
    Poster(settings, store).post_now()
    assert not audit(settings, store).differences


def journal_bytes(settings: Settings) -> int:
    """Return how many bytes of records the journal has."""
    return sum(path.stat().st_size - HEADER_BYTES for path in settings.journal_dir.glob("*.journal"))


def test_hits_are_counted_as_a_request_is(counter: hitledger.Counter, store: LedgerStore) -> None:
    """A path has the URL that it has over HTTP and in reports; hits and routes are kept."""
    assert counter.count("/jobs/resize", 3)
    assert counter.count("/jobs/resize?size=2", route="/jobs/<name>")
    assert all(counter.count(path) for path in ("/käse", "/k%C3%A4se", "/k%c3%a4se#rind", "/a b\n\0c", "/\udcff"))
    assert counter.count("/" + "x" * 3000, 2)
    assert counter.close()
    assert counts_of(store) == {"/jobs/resize": 4, "/k%C3%A4se": 3, "/a%20b%0A%00c": 1, "/%FF": 1}
    assert store.totals().lines == {"(oversized)": 2}
    assert routes_of(store) == {"/jobs/<name>": 1}


def test_many_hits_are_one_record(counter: hitledger.Counter, settings: Settings, store: LedgerStore) -> None:
    """A billion hits cost one write of a few bytes, and are all there."""
    assert counter.count("/many", MOST_HITS)
    assert journal_bytes(settings) < 60
    assert counter.close()
    assert counts_of(store) == {"/many": MOST_HITS}


@pytest.mark.parametrize(
    "words",
    [
        ("/x", 0), ("/x", -1), ("/x", 1.0), ("/x", "2"), ("/x", True), ("/x", None), ("/x", MOST_HITS + 1),
        ("x",), ("",), (None,), (b"/x",), ("http://host/x",), ("/\ud800",),
    ],
)  # fmt: skip
def test_bad_input_counts_nothing(counter: hitledger.Counter, settings: Settings, words: tuple[Any, ...]) -> None:
    """What is no path, or no number of hits, is one clear error, and nothing is written."""
    with pytest.raises(CountError, match=r"^.* is no (path|number of hits)\. Give .*$"):
        counter.count(*words)
    assert not settings.journal_dir.exists()


def test_no_route_and_no_counter_any_more(counter: hitledger.Counter) -> None:
    """An empty route, and a counter that is closed, are errors; closing twice is none."""
    with pytest.raises(CountError, match="no route"):
        counter.count("/x", route="")
    assert counter.close()
    with pytest.raises(CountError, match="closed"):
        counter.count("/x")
    assert counter.close()
    assert counter.counter.journal.received == 0


@pytest.mark.parametrize("refuses", [False, True])
def test_hits_that_cannot_be_journalled_are_told(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, refuses: bool
) -> None:
    """A full disk makes them lost, and says so: by False, or by an error where the settings refuse."""
    del environment
    monkeypatch.setenv("HITLEDGER_ON_JOURNAL_FAILURE", "refuse" if refuses else "serve")

    def fail(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with hitledger.Counter() as counter:
        journal = counter.counter.journal
        journal._write = fail
        for _ in range(2):
            if refuses:
                with pytest.raises(JournalError, match="not counted"):
                    counter.count("/x", 5)
            else:
                assert not counter.count("/x", 5)
            journal._retry_at = float("inf")
        # What is refused before it is tried is nobody's loss.
        assert journal.lost == (5 if refuses else 10)
        journal._retry_at = 0


def test_it_shares_the_journal_of_a_middleware(settings: Settings, store: LedgerStore) -> None:
    """Made from a middleware's counter, it counts in that one's journal, and does not end it."""
    with closing(LedgerStore(settings)) as other:
        shared = HitCounter(settings, other)
        with hitledger.Counter(shared) as counter:
            assert counter.count("/job", 2)
        assert shared.note(b"/request", "200 OK")
        assert shared.journal.received == 3
        assert shared.stop()
    assert counts_of(store) == {"/job": 2, "/request": 1}


def test_the_end_is_bounded_and_keeps_what_is_not_posted(
    settings: Settings, store: LedgerStore, valkey: Valkey, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the ledger does not answer, closing says so when its time is over, and the hits are posted later."""
    del environment
    with Proxy(valkey.socket) as proxy:
        monkeypatch.setenv("HITLEDGER_REDIS_URL", proxy.url)
        proxy.hold()
        counter = hitledger.Counter()
        assert counter.count("/x", 7)
        assert not counter.close(seconds=0)
        proxy.heal()
        wait_until(lambda: not counter.counter._bookkeeper._threads[-1].is_alive())
    post(settings, store)
    assert counts_of(store) == {"/x": 7}


AT_EXIT = """
import multiprocessing, hitledger
counter = hitledger.Counter()

def work(number):
    counter.count(f"/{number % 3}", number + 1, route="/<number>")

if __name__ == "__main__":
    work(0)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        pool.map(work, range(1, 100), chunksize=1)
"""


def test_a_normal_exit_posts_what_is_journalled(environment: dict[str, str], store: LedgerStore) -> None:
    """A program that closes nothing leaves all its hits in the ledger, those of its children too."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", AT_EXIT],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert (ended.stdout, ended.stderr) == (b"", b"")
    tally = Tally({f"/{rest}": sum(number + 1 for number in range(rest, 100, 3)) for rest in range(3)})
    assert counts_of(store) == tally
    assert routes_of(store) == {"/<number>": tally.total()}


def test_an_exit_without_a_ledger(
    environment: dict[str, str], settings: Settings, store: LedgerStore, short_path: Path
) -> None:
    """It ends well, says in a line that hits wait, and the next start posts them."""
    without = {**environment, "HITLEDGER_REDIS_URL": f"unix://{short_path}/nowhere.sock"}
    script = "import hitledger; hitledger.Counter().count('/x', 9)"
    ended = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **without}, capture_output=True, timeout=60, check=True
    )
    assert b"hits still in the journal" in ended.stderr
    assert b"Traceback" not in ended.stderr
    post(settings, store)
    assert counts_of(store) == {"/x": 9}


KILLED = """
import os, random, sys, threading, hitledger
counter = hitledger.Counter()

def work(name):
    rng = random.Random(name)
    while True:
        hits = rng.randint(1, 100)
        assert counter.count(f"/{name}", hits)
        os.write(1, f"{name} {hits}\\n".encode())

for process in range(3):
    if process == 2 or not os.fork():
        for thread in range(2):
            threading.Thread(target=work, args=(f"{process}-{thread}",)).start()
        break
"""
"""Two threads in each of three processes; each tells of every call after it has returned."""


def test_kill_9_in_the_middle(environment: dict[str, str], settings: Settings, store: LedgerStore) -> None:
    """What `count` has returned for is in the ledger once; of a call that was under way, all hits or none."""
    with Running([sys.executable, "-c", KILLED], environment) as counting:
        seen: Tally[str] = Tally()
        while len(seen) < 6 or min(seen.values()) < 100:
            seen[counting.line_with("-").split(" ")[0]] += 1
        for pid in counting.left():
            os.kill(pid, signal.SIGKILL)
        told = Tally(line.split(" ")[0] for line in counting.output().splitlines())
    post(settings, store)
    counts = counts_of(store)
    for name, calls in told.items():
        rng = random.Random(name)
        hits = sum(rng.randint(1, 100) for _ in range(calls))
        assert counts.pop(f"/{name}") in (hits, hits + rng.randint(1, 100))
    assert counts == {}


def test_many_threads(counter: hitledger.Counter, store: LedgerStore) -> None:
    """Threads that count at once lose nothing of each other's."""

    def work() -> None:
        for number in range(500):
            assert counter.count(f"/{number % 7}", number + 1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.close()
    assert sum(counts_of(store).values()) == 8 * sum(range(1, 501))


PREFORK = """
import os, time
from pathlib import Path
import celery, hitledger
app = celery.Celery("jobs", broker=os.environ["BROKER"])
app.conf.broker_connection_retry_on_startup = True
counter = hitledger.Counter()

@app.task(name="resize")
def resize(number):
    counter.count(f"/resize/{number % 3}", number)
    met = Path(os.environ["MET"])
    (met / str(os.getpid())).touch()
    while len(list(met.iterdir())) < 2:
        time.sleep(0.01)
"""
"""Nobody goes on before two children have a task each."""


@pytest.mark.slow
def test_celery_prefork(
    environment: dict[str, str], settings: Settings, store: LedgerStore, valkey: Valkey, short_path: Path
) -> None:
    """A counter that is made where tasks are defined counts in each child, and their parent posts the rest."""
    (short_path / "jobs.py").write_text(PREFORK)
    (short_path / "met").mkdir()
    broker = f"redis+socket://{valkey.socket}?virtual_host=1"
    command = ["celery", "--workdir", str(short_path), "--app", "jobs", "worker", "--pool", "prefork"]
    options = [
        "--concurrency",
        "2",
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
        "--loglevel",
        "info",
    ]
    told = {**environment, "BROKER": broker, "MET": str(short_path / "met")}
    with Running([sys.executable, "-m", *command, *options], told) as worker:
        with celery.Celery(broker=broker) as app:
            for number in range(1, 61):
                app.send_task("resize", [number])
        for _ in range(60):
            worker.line_with("succeeded in")
        # A child that is told to end before Celery has read its last result waits 30 seconds for that.
        assert worker.end(seconds=90) == 0
    assert len(list(settings.journal_dir.glob("*.journal"))) >= 2
    assert counts_of(store) == {f"/resize/{rest}": sum(n for n in range(1, 61) if n % 3 == rest) for rest in range(3)}
