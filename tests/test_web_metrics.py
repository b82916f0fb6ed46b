"""/metrics: the books' figures, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from hitledger.settings import Settings
from hitledger.web import create_app
from hitledger.web.services import Services


@pytest.fixture
def client(settings: Settings) -> Iterator[FlaskClient]:
    """A client of a service with a ledger of two shards."""
    app = create_app(replace(settings, shards=2))
    yield app.test_client()
    app.extensions["hitledger"].counter.stop()


def figures(client: FlaskClient) -> dict[str, float]:
    """Return each metric's sum over its labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(client.get("/metrics").get_data(as_text=True)):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


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
    (services.settings.journal_dir / "x.quarantined").touch()
    found = figures(client)
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
    app.extensions["hitledger"].counter.stop()
