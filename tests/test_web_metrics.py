"""/metrics: the books' figures, as Prometheus reads them."""

from __future__ import annotations

import os
import signal
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.client import HTTPException
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from hitledger.progress import THROUGH
from hitledger.serve import answers_http
from hitledger.settings import Settings
from hitledger.web import create_app
from hitledger.web.services import Services
from tests.ports import free_port
from tests.processes import Running
from tests.support import Valkey, wait_until


@pytest.fixture
def client(settings: Settings) -> Iterator[FlaskClient]:
    """A client of a service with a ledger of two shards."""
    app = create_app(replace(settings, shards=2))
    yield app.test_client()
    app.extensions["hitledger"].counter.stop()


def samples(text: str) -> list[Sample]:
    """Return what Prometheus reads in an answer of /metrics."""
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def figures(client: FlaskClient) -> dict[str, float]:
    """Return each metric's sum over its labels."""
    found: dict[str, float] = {}
    for sample in samples(client.get("/metrics").get_data(as_text=True)):
        found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def answered(text: str) -> dict[tuple[str, str, str], float]:
    """Return how many requests were answered, by method, status and route."""
    return {
        (sample.labels["method"], sample.labels["status"], sample.labels["route"]): sample.value
        for sample in samples(text)
        if sample.name == "hitledger_http_request_duration_seconds_count"
    }


def test_the_balance_is_there(client: FlaskClient) -> None:
    """Posted, lost, pending and refused, as the audit has them; looking at them is not counted."""
    services: Services = client.application.extensions["hitledger"]
    for number in range(10):
        client.get(f"/api/{number}/")
    services.counter.post_now()
    found = figures(client)
    assert found["hitledger_posted_hits_total"] == 10
    assert found["hitledger_urls"] == 10
    assert found["hitledger_ledger_up"] == 1
    assert found["hitledger_received_hits_total"] <= 10
    assert found["hitledger_journal_files"] == 1
    for name in ("lost_hits_total", "audit_difference_hits", "journal_pending_bytes", "journal_refused_files"):
        assert found[f"hitledger_{name}"] == 0
    assert figures(client)["hitledger_posted_hits_total"] == 10


def test_each_figure_is_moved_by_its_fault(client: FlaskClient) -> None:
    """A total that was changed, hits that were lost and files that were set aside are seen."""
    services: Services = client.application.extensions["hitledger"]
    client.get("/api/1/")
    services.counter.post_now()
    store = services.store
    store.reader(0).hincrby(store.totals_key(0), "requests", 3)
    store.reader(0).hset(store.watermarks_key(0), "0" * 16 + "-" + "0" * 32, "300 0 00000000 7 1")
    (services.settings.journal_dir / "x.quarantined").write_bytes(b"header\nrecord\nrecord")
    found = figures(client)
    assert found["hitledger_refused_hits"] == 2
    assert found["hitledger_audit_difference_hits"] == 3
    assert found["hitledger_lost_hits_total"] == 7
    assert found["hitledger_damaged_records_total"] == 1
    assert found["hitledger_journal_refused_files"] == 1


def test_a_ledger_that_is_away_is_no_zero(settings: Settings) -> None:
    """Its figures are missing, and what waits on this host is there."""
    app = create_app(replace(settings, redis_url="redis://127.0.0.1:1"))
    client = app.test_client()
    client.get("/api/1/")
    found = figures(client)
    assert found["hitledger_ledger_up"] == 0
    assert "hitledger_posted_hits_total" not in found
    assert found["hitledger_journal_pending_bytes"] > 0
    wait_until(lambda: figures(client)["hitledger_posting_failures_total"] > 0)
    app.extensions["hitledger"].counter.stop()


def test_requests_are_told_by_route(client: FlaskClient) -> None:
    """However many paths and methods clients think of, there is one histogram a route, method and status."""
    for number in range(50):
        client.get(f"/api/{number}/x/").close()
        client.get(f"/nowhere/{number}").close()
        client.open("/stats/", method=f"M{number}").close()
    client.get("/stats/?limit=0").close()
    text = client.get("/metrics").get_data(as_text=True)
    assert answered(text) == {
        ("GET", "200", "/api/<anything:rest>"): 50,
        ("GET", "404", "(unmatched)"): 50,
        ("other", "405", "(unmatched)"): 50,
        ("GET", "422", "/stats/"): 1,
    }
    assert "/api/7/" not in text


def test_a_histogram_adds_up(client: FlaskClient) -> None:
    """Its buckets grow to its count, and its sum is that of the durations."""
    client.get("/api/1/").close()
    found = [
        each
        for each in samples(client.get("/metrics").get_data(as_text=True))
        if each.name.startswith("hitledger_http_request_duration_seconds")
    ]
    buckets = [each.value for each in found if each.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 1
    assert len(buckets) == 15
    (total,) = [each.value for each in found if each.name.endswith("_sum")]
    assert 0 < total < 10


def test_posting_is_told(client: FlaskClient) -> None:
    """Batches, round trips and lag come from whoever posts; what has to be sent again is counted."""
    services: Services = client.application.extensions["hitledger"]
    client.get("/api/1/")
    services.counter.post_now()
    found = figures(client)
    assert found["hitledger_posting_batches_total"] >= 1
    assert found["hitledger_ledger_round_trip_seconds_count"] >= 1
    assert found["hitledger_posting_retries_total"] == 0
    assert 0 <= found["hitledger_posting_lag_seconds"] < 60
    wait_until(lambda: figures(client)["hitledger_received_hits_total"] == 1)
    # Somebody else has posted up to where nobody can have: this poster's next batch does not fit.
    store = services.store
    key = store.watermarks_key(0)
    shard = next(number for number in range(2) if store.reader(0).exists(store.watermarks_key(number)))
    key = store.watermarks_key(shard)
    (name,) = store.reader(0).hkeys(key)
    store.reader(0).hdel(key, name)
    client.get("/api/1/")
    wait_until(lambda: figures(client)["hitledger_posting_retries_total"] >= 1)


def test_lag_grows_while_nobody_posts(client: FlaskClient) -> None:
    """The lag is the time since everything was posted, as whoever posted last has told."""
    services: Services = client.application.extensions["hitledger"]
    services.counter._bookkeeper.stop()
    before = services.counter.meters.read()[THROUGH]
    services.counter.meters.set(THROUGH, before[0] - 3_600_000_000, before[1])
    assert 3600 <= figures(client)["hitledger_posting_lag_seconds"] < 7200


def test_test_runs_are_told(client: FlaskClient) -> None:
    """Runs that ended stay counted by how, and what they sent; without a worker there is none."""
    services: Services = client.application.extensions["hitledger"]
    key = services.store.key("runs", "{0}", "ended")
    services.store.reader(0).hset(key, mapping={"finished": 2, "failed": 1, "requests:succeeded": 20})
    text = client.get("/metrics").get_data(as_text=True)
    runs = {each.labels["status"]: each.value for each in samples(text) if each.name == "hitledger_runs_total"}
    assert runs == {"finished": 2, "cancelled": 0, "failed": 1}
    found = figures(client)
    assert found["hitledger_run_requests_total"] == 20
    assert found["hitledger_workers"] == found["hitledger_runs_open"] == 0


@pytest.mark.slow
def test_figures_of_several_processes_survive_them(valkey: Valkey, tmp_path: Path) -> None:
    """Over several web processes, kills and restarts every scrape has every answer, and no counter ever falls."""
    port = free_port()
    settings = {
        "HITLEDGER_REDIS_URL": valkey.url, "HITLEDGER_DATA_DIR": str(tmp_path), "HITLEDGER_PORT": str(port),
        "HITLEDGER_KEY_PREFIX": f"metrics-{port}", "HITLEDGER_WORKERS": "3",
    }  # fmt: skip
    command = [sys.executable, "-m", "hitledger", "web"]

    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return str(answer.read().decode())

    def count() -> float:
        return answered(get("/metrics")).get(("GET", "200", "/api/<anything:rest>"), 0)

    def is_there(sent: int) -> bool:
        try:
            return count() == sent
        except (OSError, HTTPException):  # from a process that was killed
            return False

    for start in range(2):
        with Running(command, settings) as web:
            wait_until(lambda: answers_http(Settings(port=port)))
            last = 0.0
            for _ in range(60):
                get("/api/one/")
                now = count()
                assert now >= last
                last = now
            sent = 60 * (start + 1)
            wait_until(partial(is_there, sent))
            os.kill(web.left("hitledger web")[-1], signal.SIGKILL)
            wait_until(lambda: answers_http(Settings(port=port)))
            wait_until(partial(is_there, sent))
            assert web.end() == 0
    assert len(list((tmp_path / "meters").iterdir())) <= 4
