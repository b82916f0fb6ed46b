"""sentinel: the primary dies, or is cut off and goes on alone, and the counts stay exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hitledger.addresses import Node, read_address
from hitledger.connections import ManyServers
from hitledger.errors import LedgerUnavailableError
from hitledger.ledger import LedgerStore
from hitledger.sentinel import SentinelDirectory
from hitledger.settings import Settings
from tests.books import Books
from tests.servers import Sentinels
from tests.support import wait_until
from tests.traffic import Traffic

pytestmark = pytest.mark.slow


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    """A primary, a replica and three Sentinels."""
    with Sentinels(tmp_path / "servers") as sentinels:
        yield sentinels


@pytest.fixture
def settings(sentinels: Sentinels, tmp_path: Path) -> Settings:
    """A ledger on them, posted to often."""
    return Settings(redis_url=sentinels.url, data_dir=tmp_path / "data", posting_interval_ms=10)


def test_a_primary_is_killed(sentinels: Sentinels, settings: Settings) -> None:
    """Its replica takes over, and has all of it; the old primary comes back as a replica."""
    with Traffic(settings) as traffic:
        traffic.wait_posted()
        sentinels.first.kill()
        sentinels.wait_promoted()
        traffic.wait_posted()
        sentinels.first.start()
        wait_until(lambda: sentinels.first.info("role") == "slave")
        traffic.wait_posted()
        traffic.end()
        assert traffic.is_exact()
    traffic.close()


class FarSide(SentinelDirectory):
    """What a host knows that is cut off from the Sentinels together with the old primary."""

    def __init__(self, sentinels: Sentinels) -> None:
        super().__init__(read_address(sentinels.url))
        self._known = (sentinels.link.port, sentinels.first.port)
        self.cut_off = True

    def refresh(self) -> None:
        """Ask, if they can be reached."""
        if not self.cut_off:
            super().refresh()

    def primary_of(self, slot: int) -> Node:
        """Reach the old primary by its own port, not by the link that the others use."""
        link, port = self._known
        if self._primary is None:
            return Node("127.0.0.1", port)
        node = super().primary_of(slot)
        return Node("127.0.0.1", port) if node.port == link else node

    def nodes(self) -> list[tuple[Node, bool]]:
        """Know the primary only."""
        return [(self.primary_of(0), True)]


def test_a_partition_with_the_old_primary(sentinels: Sentinels, settings: Settings) -> None:
    """What a primary acknowledges that is no primary any more is forgotten at the reunion, and posted again."""
    settings = replace(settings, ledger_replicas=1, journal_hold_seconds=0)
    directory = FarSide(sentinels)
    store = LedgerStore(settings, ManyServers(read_address(sentinels.url), directory))
    with Traffic(settings, store) as traffic:
        traffic.wait_posted()
        sentinels.link.cut()
        traffic.wait_posted()  # acknowledged by the old primary
        closed = Books(settings)
        before = closed.files()
        closed.note(*[b"/closed"] * 30)
        closed.journal.close()
        (path,) = set(closed.files()) - set(before)
        sentinels.wait_promoted()
        traffic.wait_posted()  # still
        assert sentinels.first.info("role") == "master"
        wait_until(lambda: store.totals().requests >= 30)
        assert path.exists()
        directory.cut_off = False
        sentinels.link.mend()
        wait_until(lambda: sentinels.first.info("role") == "slave", 60)
        traffic.wait_posted()
        traffic.end()
        traffic.tally["/closed"] += 30
        assert traffic.is_exact()
        wait_until(lambda: not path.exists())
    traffic.close()
    closed.close()


def test_a_primary_that_must_have_replicas(sentinels: Sentinels, settings: Settings) -> None:
    """With min-replicas-to-write a primary that is cut off refuses, and the hits wait in the journal."""
    sentinels.first.ask("CONFIG SET", "min-replicas-to-write", 1)
    sentinels.first.ask("CONFIG SET", "min-replicas-max-lag", 1)
    store = LedgerStore(settings, ManyServers(read_address(sentinels.url), FarSide(sentinels)))
    with Traffic(settings, store) as traffic:
        traffic.wait_posted()
        sentinels.link.cut()
        wait_until(lambda: "NOREPLICAS" in traffic.counter.poster.status.error)
        traffic.end()
    traffic.close()


def test_sentinels_that_know_no_such_service(settings: Settings) -> None:
    """A wrong name is told as what it is."""
    wrong = str(settings.redis_url).replace("/ledger", "/leger")
    store = LedgerStore(replace(settings, redis_url=wrong))
    with pytest.raises(LedgerUnavailableError, match="No Sentinel that answers knows a primary 'leger'"):
        store.open()
    store.close()
