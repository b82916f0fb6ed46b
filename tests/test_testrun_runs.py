"""Starting test runs, or leaving nothing behind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hitledger.errors import LedgerUnavailableError, RunUnavailableError
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
from hitledger.testrun import runs as runs_module
from hitledger.testrun.queue import PartQueue
from hitledger.testrun.record import RunRecords
from hitledger.testrun.runs import Runs
from hitledger.testrun.workers import WorkerMarks
from tests.support import Valkey


@pytest.fixture
def alive(store: LedgerStore) -> None:
    """Let there be a worker, as far as its mark tells."""
    WorkerMarks(store).beat("w1")


def keys_of_runs(settings: Settings, valkey: Valkey) -> list[str]:
    """Return the keys that hold anything of a run, or of a queue."""
    return [
        str(key) for kind in ("run*", "celery*") for key in valkey.client.scan_iter(f"{settings.key_prefix}:{kind}")
    ]


def test_without_a_worker_nothing_is_started(settings: Settings, store: LedgerStore, valkey: Valkey) -> None:
    """Where no worker is alive a run is refused, and nothing of it is left."""
    with pytest.raises(RunUnavailableError, match="No worker"):
        Runs(settings, store).start(10)
    assert keys_of_runs(settings, valkey) == []


@pytest.mark.usefixtures("alive")
def test_without_a_broker_nothing_is_started(settings: Settings, store: LedgerStore, valkey: Valkey) -> None:
    """Where the broker is away a run is refused, and nothing of it is left."""
    away = replace(settings, broker_url=f"unix://{valkey.directory}/none.sock")
    with pytest.raises(RunUnavailableError, match="queue"):
        Runs(away, store).start(10)
    assert keys_of_runs(settings, valkey) == []


@pytest.mark.usefixtures("alive")
def test_when_too_many_wait_nothing_is_started(
    settings: Settings, store: LedgerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs that wait are bounded; one more is refused."""
    monkeypatch.setattr(runs_module, "MOST_OPEN", 2)
    runs = Runs(settings, store)
    started = {runs.start(10), runs.start(10)}
    with pytest.raises(RunUnavailableError, match="waiting already"):
        runs.start(10)
    assert {run.id for run in runs.list()} == started


def test_without_a_ledger_nothing_is_started(settings: Settings, valkey: Valkey) -> None:
    """Where the ledger is away a run is refused."""
    away = replace(settings, redis_url=f"unix://{valkey.directory}/none.sock", broker_url=settings.redis_url)
    store = LedgerStore(away)
    with pytest.raises(LedgerUnavailableError):
        Runs(away, store).start(10)
    store.close()


@pytest.mark.usefixtures("alive")
def test_a_run_is_queued_before_it_exists(settings: Settings, store: LedgerStore) -> None:
    """A run that was started is queued in full, has a pool of its own, and waits for a worker."""
    runs = Runs(settings, store)
    run_id = runs.start(12_000)
    run = runs.wait(run_id, 0)
    assert run
    assert (run.id, run.status, run.requested, run.sent, len(set(run.pool))) == (run_id, "queued", 12_000, 0, 3)
    assert not PartQueue(settings).is_empty()
    records = RunRecords(store, WorkerMarks(store))
    assert records.sweep() == {run_id: [0, 1, 2]}
    assert [records.share(run_id, part)[1] for part in range(3)] == [4000, 4000, 4000]


@pytest.mark.usefixtures("alive")
def test_cancelling(settings: Settings, store: LedgerStore) -> None:
    """A run can be cancelled, again too; what is no run cannot."""
    runs = Runs(settings, store)
    run_id = runs.start(10)
    cancelled = runs.cancel(run_id)
    assert cancelled
    assert cancelled.status == "cancelled"
    assert runs.cancel(run_id) == cancelled == runs.wait(run_id, 60)
    assert runs.cancel("0" * 26) is None
    assert runs.get("0" * 26) is None
