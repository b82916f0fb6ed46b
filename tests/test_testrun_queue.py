"""The queue of parts: where it is, and what becomes of it when it cannot be reached."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hitledger.errors import RunUnavailableError, SettingsError
from hitledger.settings import Settings
from hitledger.testrun.queue import PartQueue, kombu_url
from tests.ports import free_port
from tests.support import Valkey


@pytest.mark.parametrize(
    ("ours", "kombus"),
    [
        ("redis://:secret@host:6380/2", "redis://:secret@host:6380/2"),
        ("rediss://host/0?ssl_ca_certs=%2Fca.pem", "rediss://host/0?ssl_ca_certs=%2Fca.pem"),
        ("unix:///run/valkey.sock", "redis+socket:///run/valkey.sock?virtual_host=0"),
        ("unix:///run/valkey.sock?db=3", "redis+socket:///run/valkey.sock?virtual_host=3"),
        ("unix://user:secret@/run/valkey.sock?db=3", "redis+socket://user:secret@/run/valkey.sock?virtual_host=3"),
    ],
)
def test_addresses_in_kombus_words(ours: str, kombus: str) -> None:
    """Every address that a ledger or a broker may have means the same to Celery."""
    assert kombu_url(ours) == kombus


def test_messages_wait_under_the_key_prefix(settings: Settings, valkey: Valkey) -> None:
    """What is queued stands below the service's own prefix, in the database that was named."""
    queue = PartQueue(replace(settings, redis_url=valkey.database_url(1)))
    assert queue.is_empty()
    queue.send("run", range(3))
    assert not queue.is_empty()
    assert PartQueue(replace(settings, key_prefix="test-other")).is_empty()
    client = valkey.client
    client.select(1)
    keys = [str(key) for key in client.scan_iter("*")]
    client.select(0)
    assert keys
    assert all(key.startswith(f"{settings.key_prefix}:celery:") for key in keys)


def test_a_broker_that_is_away(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """That it cannot be reached is said without its address; the variable of another Celery is not used."""
    monkeypatch.setenv("CELERY_BROKER_URL", str(settings.redis_url))
    port = free_port()
    queue = PartQueue(replace(settings, broker_url=f"redis://:secret@127.0.0.1:{port}/0"))
    for attempt in (lambda: queue.send("run", [0]), queue.is_empty):
        with pytest.raises(RunUnavailableError) as caught:
            attempt()
        assert "secret" not in str(caught.value)
        assert str(port) not in str(caught.value)


def test_a_ledger_that_cannot_be_the_broker(settings: Settings) -> None:
    """Where the ledger is a cluster and no broker is named, runs are refused, and a worker says what to set."""
    queue = PartQueue(replace(settings, redis_url="redis+cluster://127.0.0.1:7000"))
    with pytest.raises(RunUnavailableError, match="HITLEDGER_BROKER_URL"):
        queue.send("run", [0])
    with pytest.raises(SettingsError, match="HITLEDGER_BROKER_URL"):
        queue.carry_out_with(lambda _run, _part: None)
