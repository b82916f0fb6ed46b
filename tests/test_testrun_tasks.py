"""Workers as users start them: real processes, a real queue, killed and stopped in mid-run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hitledger.errors import RunUnavailableError
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
from hitledger.testrun import record
from hitledger.testrun.part import STOPPED
from hitledger.testrun.queue import PartQueue
from hitledger.testrun.record import LOST, RunRecords
from hitledger.testrun.run import Run
from hitledger.testrun.runs import Runs
from hitledger.testrun.workers import WorkerMarks
from tests.guarded import start_valkey
from tests.ports import free_port
from tests.support import Valkey, wait_until
from tests.testruns import OK, Target, target, worker

ENDLESS = 1_000_000
"""A run that does not end while a test lasts."""


@pytest.fixture
def server() -> Iterator[Target]:
    """What the runs send their requests to."""
    with target() as server:
        yield server


@pytest.fixture
def stalling(settings: Settings) -> Iterator[Settings]:
    """Settings with a target that answers 50 requests and no more, so that a part stays in its middle."""
    over = threading.Event()
    answers = iter([OK] * 50)

    def answer(_head: bytes, _number: int) -> bytes | None:
        return next(answers, None) or (OK if over.wait(30) else None)

    with target(answer) as server:
        yield replace(settings, self_url=server.url)
        over.set()


@pytest.fixture
def settings(settings: Settings, server: Target) -> Settings:
    """Settings with that target."""
    return replace(settings, self_url=server.url, test_connections=4)


@pytest.fixture
def runs(settings: Settings, store: LedgerStore) -> Runs:
    """The test runs of those settings."""
    return Runs(settings, store)


@pytest.fixture
def own_valkey(short_path: Path) -> Iterator[Valkey]:
    """A server that the test may kill."""
    server = start_valkey(short_path)
    yield server
    server.stop()


def ended(runs: Runs, run_id: str) -> Run:
    """Wait for a run's end."""
    run = runs.wait(run_id, 120)
    assert run
    assert run.ended
    return run


def under_way(runs: Runs, run_id: str) -> None:
    """Wait until a run is in its middle."""
    wait_until(lambda: (run := runs.get(run_id)) and run.sent)


@pytest.mark.slow
def test_two_workers_share_a_run(runs: Runs, settings: Settings, server: Target) -> None:
    """Every request is sent once, to a path of the run's pool, whichever worker has which part."""
    with worker(settings), worker(settings):
        run = ended(runs, runs.start(5001))
        assert [runs.start(1) for _ in range(3)]
    paths = server.paths[:5001]
    assert (run.status, run.sent, run.failed, run.error) == ("finished", 5001, 0, None)
    assert run.distinct_urls == len(set(paths))
    assert {segment for path in paths for segment in path.split("/")[2:-1]} == set(run.pool)
    assert run.requests_per_second
    assert run.latency_ms


@pytest.mark.slow
def test_a_cancelled_run_ends_and_the_next_begins(runs: Runs, settings: Settings, server: Target) -> None:
    """Cancelled in its middle, a run ends with what it has sent; its other tasks end at once."""
    with worker(settings):
        endless = runs.start(ENDLESS)
        under_way(runs, endless)
        runs.cancel(endless)
        run = ended(runs, endless)
        assert (run.status, run.error) == ("cancelled", None)
        assert 0 < run.sent == len(server.requests) < ENDLESS
        assert ended(runs, runs.start(7)).sent == 7
        wait_until(PartQueue(settings).is_empty)


@pytest.mark.slow
def test_a_cancel_is_heard_in_the_middle_of_a_part(runs: Runs, stalling: Settings) -> None:
    """A part whose target is silent hears that its run was cancelled; what was on its way has failed."""
    with worker(stalling):
        run_id = runs.start(1000)
        under_way(runs, run_id)
        runs.cancel(run_id)
        run = ended(runs, run_id)
    assert (run.status, run.succeeded, run.failed) == ("cancelled", 50, stalling.test_connections)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_told_to_stop(runs: Runs, stalling: Settings, number: signal.Signals) -> None:
    """It ends soon and well, its run has failed and says why, and without it no other run can be started."""
    with worker(stalling) as process:
        endless = runs.start(ENDLESS)
        under_way(runs, endless)
        assert process.end(number) == 0
        run = runs.get(endless)
        assert run
        assert (run.status, run.error) == ("failed", STOPPED)
        with pytest.raises(RunUnavailableError):
            runs.start(1)
        lines = process.output().splitlines()
    assert len(lines) == 2, lines
    assert f'"run": "{endless}", "status": "failed"' in lines[1]


@pytest.mark.slow
def test_a_worker_that_is_killed(
    runs: Runs, settings: Settings, stalling: Settings, store: LedgerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its mark has vanished its run has failed, and nothing of it is begun again."""
    monkeypatch.setattr(record, "SUSPECT_SECONDS", 0)
    with worker(stalling) as process:
        begun = runs.start(ENDLESS)
        under_way(runs, begun)
        # Nothing would be delivered again by itself.
        assert store.reader(0).exists(store.key("celery", "unacked")) == 0
        process.end(signal.SIGKILL)
    # As its time to live would have it: `test_the_mark_of_a_killed_worker_vanishes` waits for that.
    (mark,) = store.reader(0).scan_iter(store.key("worker", "*"))
    store.reader(0).delete(mark)
    run = ended(runs, begun)
    assert (run.status, run.error, run.sent) == ("failed", LOST, 50)
    with worker(settings):
        assert ended(runs, runs.start(3)).sent == 3
        wait_until(PartQueue(settings).is_empty)
    assert runs.get(begun) == run


@pytest.mark.slow
def test_the_mark_of_a_killed_worker_vanishes(runs: Runs, stalling: Settings) -> None:
    """Within seconds of kill -9, readers see the run failed and new runs are refused."""
    with worker(stalling) as process:
        begun = runs.start(ENDLESS)
        under_way(runs, begun)
        process.end(signal.SIGKILL)
        assert ended(runs, begun).error == LOST
        with pytest.raises(RunUnavailableError):
            runs.start(1)


@pytest.mark.slow
def test_tasks_that_were_lost_are_queued_again(runs: Runs, settings: Settings, store: LedgerStore) -> None:
    """A run whose tasks vanished from the queue is carried out all the same."""
    records = RunRecords(store, WorkerMarks(store))
    run_id, _ = records.create(10, ("a", "b", "c"))
    records.open(run_id)
    with worker(settings):
        assert ended(runs, run_id).succeeded == 10


@pytest.mark.slow
def test_a_message_that_comes_twice(runs: Runs, settings: Settings, server: Target) -> None:
    """Each part is carried out once, however often its message comes."""
    with worker(settings):
        run_id = runs.start(10)
        PartQueue(settings).send(run_id, [0, 0, 0])
        assert ended(runs, run_id).sent == 10
        PartQueue(settings).send(run_id, [0])
        assert ended(runs, runs.start(1)).sent == 1
        wait_until(PartQueue(settings).is_empty)
    assert len(server.requests) == 11


@pytest.mark.slow
def test_a_ledger_that_restarts_in_mid_run(settings: Settings, own_valkey: Valkey) -> None:
    """Killed and started again, the ledger's server costs a run nothing, and the worker goes on taking runs."""
    settings = replace(settings, redis_url=own_valkey.url)
    store = LedgerStore(settings)
    runs = Runs(settings, store)
    with worker(settings):
        run_id = runs.start(10_000)
        under_way(runs, run_id)
        own_valkey.kill()
        own_valkey.start()
        run = ended(runs, run_id)
        assert (run.status, run.sent, run.failed) == ("finished", 10_000, 0)
        assert ended(runs, runs.start(2)).sent == 2
    store.close()


@pytest.mark.slow
def test_the_most_that_a_worker_sends(runs: Runs, settings: Settings, server: Target) -> None:
    """A worker's own limit holds, whatever a run's record says."""
    run_id = ""
    with worker(replace(settings, test_max_requests=5)):
        run_id = runs.start(10)
        wait_until(lambda: len(server.requests) == 5)
        assert ended(runs, run_id).sent == 5


def test_a_target_that_is_away(runs: Runs, settings: Settings) -> None:
    """Where nobody answers, every request has failed, and the run has finished."""
    with worker(replace(settings, self_url=f"http://127.0.0.1:{free_port()}")):
        run = ended(runs, runs.start(20))
    assert (run.status, run.sent, run.succeeded, run.failed, run.latency_ms) == ("finished", 20, 0, 20, None)
