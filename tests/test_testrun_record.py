"""The records of test runs: who does what, once, and how a run ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from hitledger.ledger import LedgerStore
from hitledger.testrun import record
from hitledger.testrun.latency import Latencies
from hitledger.testrun.record import RunRecords
from hitledger.testrun.run import Part, Run, new_run_id
from hitledger.testrun.workers import MARK_SECONDS, WorkerMarks
from tests.support import Valkey

POOL = ("a", "b", "c")


@pytest.fixture
def marks(store: LedgerStore) -> WorkerMarks:
    """The workers' marks; the workers w1 and w2 are alive."""
    marks = WorkerMarks(store)
    marks.beat("w1")
    marks.beat("w2")
    return marks


@pytest.fixture
def records(store: LedgerStore, marks: WorkerMarks) -> RunRecords:
    """The records of test runs."""
    return RunRecords(store, marks)


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut runs into parts of 10 requests, and take a worker without a mark for lost at once."""
    monkeypatch.setattr(record, "PART_REQUESTS", 10)
    monkeypatch.setattr(record, "SUSPECT_SECONDS", 0)


def begun(records: RunRecords, requests: int) -> str:
    """Return the id of a new run that may begin."""
    run_id, _ = records.create(requests, POOL)
    assert records.open(run_id)
    return run_id


def read(records: RunRecords, run_id: str) -> Run:
    """Return a run that is there."""
    run = records.read(run_id)
    assert run
    return run


def end(records: RunRecords, run_id: str, part: int, claim: Part, paths: Sequence[str] = (), latency: int = 1) -> bool:
    """Report the end of a part."""
    latencies = Latencies()
    latencies.add([latency] * claim.succeeded)
    return records.report(run_id, part, replace(claim, ended=time.time()), paths, latencies.encode())


def test_a_run_of_two_parts(records: RunRecords) -> None:
    """Parts share the run's requests and its pool, and what they did is added up."""
    run_id, parts = records.create(15, POOL)
    assert parts == 2
    assert records.read(run_id) is None
    assert records.open(run_id)
    assert read(records, run_id) == Run(run_id, "queued", 15, 0, 0, POOL, 0, None, None, None, None)
    first, second = Part("w1", "x"), Part("w2", "y")
    assert [records.claim(run_id, 0, first), records.claim(run_id, 1, second)] == ["claimed", "claimed"]
    assert [records.share(run_id, 0), records.share(run_id, 1)] == [(["a", "b", "c"], 8), (["a", "b", "c"], 7)]

    assert records.report(run_id, 0, replace(first, succeeded=3), ["/api/a/", "/api/b/"])
    run = read(records, run_id)
    assert (run.status, run.sent, run.distinct_urls, run.ended) == ("running", 3, 2, False)
    assert run.started_at
    assert run.requests_per_second

    end(records, run_id, 0, replace(first, succeeded=7, failed=1), ["/api/a/", "/api/b/"], latency=1000)
    assert read(records, run_id).status == "running"
    end(records, run_id, 1, replace(second, succeeded=7), ["/api/b/", "/api/c/"], latency=3000)
    run = read(records, run_id)
    assert (run.status, run.succeeded, run.failed, run.distinct_urls, run.error) == ("finished", 14, 1, 3, None)
    assert run.latency_ms == pytest.approx({"p50": 1.0, "p90": 3.0, "p99": 3.0, "max": 3.0}, rel=0.001)
    assert run.finished_at
    assert run.started_at
    assert run.finished_at >= run.started_at
    assert read(records, run_id) == run


def test_a_part_is_claimed_once(records: RunRecords) -> None:
    """A message that comes twice starts nothing, whoever gets it; a claim that is repeated is granted again."""
    run_id = begun(records, 10)
    claim = Part("w1", "x")
    assert records.claim(run_id, 0, claim) == "claimed"
    assert records.claim(run_id, 0, claim) == "claimed"
    assert records.claim(run_id, 0, Part("w1", "z")) == "refused"
    assert records.claim(run_id, 0, Part("w2", "x")) == "refused"
    end(records, run_id, 0, replace(claim, succeeded=10))
    assert read(records, run_id).status == "finished"
    assert records.claim(run_id, 0, Part("w2", "y")) == "refused"
    assert records.claim(new_run_id(time.time()), 0, claim) == "refused"


def test_a_run_that_was_not_opened_begins_nowhere(
    records: RunRecords, store: LedgerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until all tasks are queued a run is not there for anybody, and it is forgotten by itself."""
    monkeypatch.setattr(record, "STARTING_SECONDS", 1)
    run_id, _ = records.create(10, POOL)
    assert records.claim(run_id, 0, Part("w1", "x")) == "starting"
    assert records.newest(10) == []
    assert records.sweep() == {}
    key = store.key("run", "{0}", run_id)
    assert 0 < store.reader(0).pttl(key) <= 1000
    store.reader(0).delete(key)
    assert not records.open(run_id)
    assert records.read(run_id) is None
    assert records.newest(10) == []


def test_discarding(records: RunRecords) -> None:
    """A discarded run is gone."""
    run_id, _ = records.create(10, POOL)
    records.discard(run_id)
    assert records.claim(run_id, 0, Part("w1", "x")) == "refused"
    assert not records.open(run_id)


def test_a_lost_worker_fails_its_run(records: RunRecords, marks: WorkerMarks) -> None:
    """When the mark of a part's worker is gone the run has failed, says so, and keeps what was reported."""
    run_id = begun(records, 20)
    lost, other = Part("w1", "x"), Part("w2", "y")
    records.claim(run_id, 0, lost)
    records.claim(run_id, 1, other)
    assert records.report(run_id, 0, replace(lost, succeeded=4), ["/api/a/"])
    marks.leave("w1")
    run = read(records, run_id)
    assert (run.status, run.sent) == ("running", 4)
    assert not records.report(run_id, 1, replace(other, succeeded=2), ["/api/b/"])
    end(records, run_id, 1, replace(other, succeeded=3), ["/api/b/"])
    run = read(records, run_id)
    assert (run.status, run.sent, run.distinct_urls) == ("failed", 7, 2)
    assert run.error
    assert "worker was lost" in run.error
    assert not records.report(run_id, 0, replace(lost, succeeded=10), [])
    assert read(records, run_id) == run


def test_a_run_between_two_parts(records: RunRecords, marks: WorkerMarks) -> None:
    """A run of which nobody has a part goes on while there is a worker, and has failed when there is none."""
    run_id = begun(records, 20)
    records.claim(run_id, 1, Part("w1", "x"))
    end(records, run_id, 1, Part("w1", "x", 10))
    marks.leave("w1")
    assert read(records, run_id).status == "running"
    marks.leave("w2")
    run = read(records, run_id)
    assert (run.status, run.sent, run.error) == ("failed", 10, record.LOST)


def test_a_worker_that_comes_back(
    records: RunRecords, marks: WorkerMarks, store: LedgerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose mark vanished, as in an outage of the ledger, and is there again was not lost."""
    monkeypatch.setattr(record, "SUSPECT_SECONDS", 60)
    run_id = begun(records, 10)
    claim = Part("w1", "x")
    records.claim(run_id, 0, claim)
    marks.leave("w1")
    assert read(records, run_id).status == "running"
    key = store.key("run", "{0}", run_id)
    assert store.reader(0).hexists(key, "suspected")
    marks.beat("w1")
    assert read(records, run_id).status == "running"
    # Suspected anew, it would have its time anew.
    assert not store.reader(0).hexists(key, "suspected")
    end(records, run_id, 0, replace(claim, succeeded=10))
    assert read(records, run_id).status == "finished"


def test_a_sweep_ends_what_nobody_reads(records: RunRecords, marks: WorkerMarks, store: LedgerStore) -> None:
    """A worker that looks around ends runs whose worker is lost, and finds parts that nobody has claimed."""
    lost, waiting = begun(records, 10), begun(records, 30)
    records.claim(lost, 0, Part("w1", "x"))
    records.claim(waiting, 1, Part("w2", "y"))
    assert records.sweep() == {waiting: [0, 2]}
    marks.leave("w1")
    assert records.sweep() == {waiting: [0, 2]}
    assert store.reader(0).hget(store.key("run", "{0}", lost), "status") == "failed"
    assert records.count_open() == 1


def test_cancelling_a_queued_run(records: RunRecords) -> None:
    """A run that nobody has begun ends at once, and its tasks find nothing to do."""
    run_id = begun(records, 10)
    records.stop(run_id, "cancelled")
    run = read(records, run_id)
    assert (run.status, run.sent, run.started_at, run.error) == ("cancelled", 0, None, None)
    assert records.claim(run_id, 0, Part("w1", "x")) == "refused"
    assert records.count_open() == 0


def test_cancelling_a_running_run(records: RunRecords) -> None:
    """Its parts hear it with their next report; no other begins; it ends when they have."""
    run_id = begun(records, 20)
    claim = Part("w1", "x")
    records.claim(run_id, 0, claim)
    records.stop(run_id, "cancelled")
    assert read(records, run_id).status == "running"
    assert records.claim(run_id, 1, Part("w2", "y")) == "refused"
    assert not records.report(run_id, 0, replace(claim, succeeded=5), [])
    end(records, run_id, 0, replace(claim, succeeded=6))
    run = read(records, run_id)
    assert (run.status, run.sent) == ("cancelled", 6)
    assert run.latency_ms
    records.stop(run_id, "failed", "too late")
    assert read(records, run_id) == run


def test_a_run_that_was_complete_has_finished(records: RunRecords) -> None:
    """A cancel that comes after the last request changes nothing."""
    run_id = begun(records, 10)
    claim = Part("w1", "x")
    records.claim(run_id, 0, claim)
    records.stop(run_id, "cancelled")
    end(records, run_id, 0, replace(claim, succeeded=10))
    assert read(records, run_id).status == "finished"


def test_reports_can_come_twice_and_late(records: RunRecords) -> None:
    """A report that is repeated adds nothing, and one that was overtaken by the last takes nothing back."""
    run_id = begun(records, 20)
    claim = Part("w1", "x")
    records.claim(run_id, 0, claim)
    for _ in range(2):
        end(records, run_id, 0, replace(claim, succeeded=10), ["/api/a/"])
    records.report(run_id, 0, replace(claim, succeeded=3), ["/api/b/"])
    run = read(records, run_id)
    assert (run.status, run.sent, run.distinct_urls) == ("running", 10, 1)


def test_a_run_that_no_worker_takes(records: RunRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has waited for a day is not begun any more."""
    run_id = begun(records, 10)
    monkeypatch.setattr(record, "QUEUE_SECONDS", -1)
    run = read(records, run_id)
    assert (run.status, run.error) == ("failed", record.NOT_TAKEN)


def test_the_end_wakes_those_who_wait(records: RunRecords) -> None:
    """Everybody who waits for a run is woken by its end, and whoever comes a little later need not wait."""
    run_id = begun(records, 10)
    assert not records.wait(run_id, 1)
    with ThreadPoolExecutor(3) as waiting:
        woken = [waiting.submit(records.wait, run_id, 1900) for _ in range(3)]
        records.stop(run_id, "cancelled")
        read(records, run_id)
        assert all(each.result() for each in woken)
    assert records.wait(run_id, 1)


def test_the_list_is_newest_first_and_bounded(records: RunRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many runs are listed; ids sort by age; an older one can still be read."""
    monkeypatch.setattr(record, "LISTED", 3)
    ids = [begun(records, 1) for _ in range(5)]
    assert ids == sorted(ids)
    assert [run.id for run in records.newest(100)] == ids[:1:-1]
    assert [run.id for run in records.newest(2)] == ids[:2:-1]
    assert read(records, ids[0]).id == ids[0]


def test_everything_expires(records: RunRecords, settings_prefix: str, valkey: Valkey) -> None:
    """No key of a run stays for ever; only the list of open runs and the sums over the ended ones do."""
    ended, running = begun(records, 10), begun(records, 10)
    for run_id in (ended, running):
        records.claim(run_id, 0, Part("w1", "x"))
        records.report(run_id, 0, Part("w1", "x", 1), ["/api/a/"], Latencies().encode())
    end(records, ended, 0, Part("w1", "x", 10))
    read(records, ended)
    keys = [str(key) for key in valkey.client.scan_iter(f"{settings_prefix}:run*")]
    lasting = [key for key in keys if valkey.client.ttl(key) < 0]
    assert len(keys) == 8
    assert sorted(lasting) == [f"{settings_prefix}:runs:{{0}}:{name}" for name in ("ended", "open")]
    assert records.count_ended() == {"finished": 1, "requests:succeeded": 10, "requests:failed": 0}


@pytest.fixture
def settings_prefix(store: LedgerStore) -> str:
    """The first part of every key."""
    return store.key()


@pytest.mark.parametrize("run_id", ["", "x", "0" * 25, "0" * 27, "I" * 26, "*" * 26, "é" * 26])
def test_what_is_no_id_is_no_run(records: RunRecords, run_id: str) -> None:
    """Text that cannot be an id is not looked for."""
    assert records.read(run_id) is None


def test_marks_of_workers(marks: WorkerMarks, store: LedgerStore) -> None:
    """A worker is alive while it beats; its mark vanishes a few seconds after the last beat, or when it leaves."""
    assert marks.alive(["w1", "w2", "w3"]) == {"w1", "w2"}
    assert 0 < store.reader(0).pttl(store.key("worker", "{0}", "w1")) <= MARK_SECONDS * 1000
    marks.leave("w2")
    assert marks.alive(["w1", "w2"]) == {"w1"}
    assert marks.any_alive()
    store.reader(0).delete(store.key("worker", "{0}", "w1"))
    assert not marks.any_alive()
    assert store.reader(0).exists(store.key("workers", "{0}")) == 0
