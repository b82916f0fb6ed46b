"""cluster: masters die, slots move, acknowledged batches are forgotten, and the counts stay exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from hitledger.audit import audit
from hitledger.counting import HitCounter
from hitledger.entries import shard_of
from hitledger.errors import LedgerUnavailableError
from hitledger.ledger import LedgerStore
from hitledger.posting import Poster
from hitledger.report import Query, Reports
from hitledger.settings import Settings
from tests.books import Books
from tests.servers import Cluster, Server
from tests.support import wait_until
from tests.traffic import Traffic

pytestmark = pytest.mark.slow

JUNK_BYTES = 24 * 2**20
"""More than the sockets between two servers hold: what is sent behind it does not arrive at one that stands still."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three masters and three replicas; each test leaves them all running."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def settings(cluster: Cluster, tmp_path: Path) -> Settings:
    """A ledger of the test's own, posted to often."""
    prefix = f"cluster-{tmp_path.name}"
    return Settings(redis_url=cluster.url, data_dir=tmp_path / "data", key_prefix=prefix, posting_interval_ms=10)


@pytest.fixture
def traffic(settings: Settings) -> Iterator[Traffic]:
    """Hits on it."""
    with Traffic(settings) as traffic:
        traffic.wait_posted()
        yield traffic
    traffic.close()


def test_slots_move_under_load(cluster: Cluster, traffic: Traffic) -> None:
    """While the slots of twenty shards go from node to node, key by key, nothing is lost or doubled."""
    for shard in range(20):
        slot = key_slot(f"{shard}".encode())
        source = cluster.primary_of(shard)
        target = next(each for each in cluster.masters if each is not source and each.info("role") == "master")
        cluster.begin_move(slot, source, target)
        cluster.move_keys(slot, source, target, most=3)
        if shard % 5 == 0:
            # Half moved: the shard is refused on both sides and waits, with the hits in the journal.
            wait_until(lambda: traffic.counter.poster.status.error)
        cluster.end_move(slot, source, target)
    traffic.wait_posted()
    traffic.end()
    assert traffic.is_exact()


def test_slots_move_whole_under_load(cluster: Cluster, traffic: Traffic) -> None:
    """Where the servers move whole slots by themselves, nothing is lost or doubled either."""
    for shard in range(40, 50):
        slot = key_slot(f"{shard}".encode())
        source = cluster.primary_of(shard)
        target = next(each for each in cluster.masters if each is not source and each.info("role") == "master")
        source.ask("CLUSTER MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", cluster.id_of(target))
        wait_until(lambda shard=shard, target=target: cluster.primary_of(shard) is target)  # type: ignore[misc]
    traffic.wait_posted()
    traffic.end()
    assert traffic.is_exact()


def test_a_master_is_killed_and_its_replica_promoted(cluster: Cluster, traffic: Traffic) -> None:
    """Hits go on into the journal meanwhile, and into the new master afterwards; the old one returns as a replica."""
    master = cluster.primary_of(0)
    replica = cluster.replica_of(master)
    master.kill()
    wait_until(lambda: replica.info("role") == "master")
    traffic.wait_posted()
    master.start()
    cluster.wait_well()
    traffic.wait_posted()
    traffic.end()
    assert traffic.is_exact()


def test_a_master_that_hangs_is_replaced(cluster: Cluster, traffic: Traffic) -> None:
    """What was on its way to a master that stands still runs there when it wakes, too late: it is forgotten again."""
    master = cluster.primary_of(3)
    replica = cluster.replica_of(master)
    master.pause()
    wait_until(lambda: replica.info("role") == "master")
    traffic.wait_posted()
    master.resume()
    cluster.wait_well()
    wait_until(lambda: master.info("role") == "slave")
    traffic.wait_posted()
    traffic.end()
    assert traffic.is_exact()


def test_a_cluster_that_lost_a_part_is_waited_for(cluster: Cluster, traffic: Traffic) -> None:
    """With a master and its replica both gone the rest is no ledger either; when they are back, all is posted."""
    master = cluster.primary_of(1)
    replica = cluster.replica_of(master)
    for server in (replica, master):
        server.kill()
    wait_until(lambda: traffic.counter.poster.status.error)
    with pytest.raises(LedgerUnavailableError):
        traffic.counter.store.totals()
    for server in (master, replica):
        server.start()
    cluster.wait_well()
    traffic.wait_posted()
    traffic.end()
    assert traffic.is_exact()


def test_nodes_that_are_not_in_the_address_are_found(cluster: Cluster, settings: Settings) -> None:
    """Where the only node of the address dies, those that were found through it show the way on."""
    master = cluster.primary_of(2)
    only = replace(settings, redis_url=f"redis+cluster://127.0.0.1:{master.port}")
    with Traffic(only) as traffic:
        traffic.wait_posted()
        master.kill()
        wait_until(lambda: traffic.counter.poster.status.error)
        wait_until(lambda: cluster.primary_of(2) is not master)
        traffic.wait_posted()
        traffic.end()
        assert traffic.is_exact()
    traffic.close()
    master.start()
    cluster.wait_well()


def lose_batch(cluster: Cluster, settings: Settings, *, end: bool) -> tuple[Books, int]:
    """Post hits that a master acknowledges and its replica never gets; have the replica promoted.

    Returns the books, whose first 40 hits reached both, and the hits that were lost. `end`
    ends the writer before, and lets its file be closed if it may.
    """
    books = Books(replace(settings, shards=1, journal_hold_seconds=0))
    books.note(*[b"/before"] * 40)
    books.poster.post_now()
    master = cluster.primary_of(0)
    replica = cluster.replica_of(master)
    with master.client as client:
        assert client.wait(1, 5000) == 1
        replica.pause()
        for number in range(JUNK_BYTES // 2**20):
            client.set(f"{{0}}:junk:{number}", b"x" * 2**20)
    books.note(*[b"/lost"] * 25)
    books.poster.post_now()
    assert books.counts() == {"/before": 40, "/lost": 25}
    if end:
        books.journal.close()
        for _ in range(3):
            books.poster.round()
    master.kill()
    replica.resume()
    wait_until(lambda: replica.info("role") == "master")
    restart_as_replica(cluster, master)
    return books, 25


def restart_as_replica(cluster: Cluster, master: Server) -> None:
    """Bring a killed master back."""
    master.start()
    cluster.wait_well()
    wait_until(lambda: master.info("master_link_status") == "up")


def test_a_batch_that_a_failover_lost_is_posted_again(cluster: Cluster, settings: Settings) -> None:
    """With replicas asked for, a file stays until they have it; the new master gets from it what it lacks."""
    books, _ = lose_batch(cluster, replace(settings, ledger_replicas=1), end=True)
    assert len(books.files()) == 1
    wait_until(lambda: has_posted(books))
    assert books.counts() == {"/before": 40, "/lost": 25}
    for _ in range(3):
        books.poster.round()
    assert not books.files()
    assert not audit(books.settings, books.store).differences
    books.close()


def test_a_batch_that_was_not_held_is_told_to_the_last_hit(cluster: Cluster, settings: Settings) -> None:
    """Where nobody asked for replicas or a hold, what the failover lost is gone, and booked as lost exactly."""
    books, lost = lose_batch(cluster, settings, end=True)
    assert not books.files()
    again = Poster(books.settings, books.store)
    wait_until(lambda: has_posted(books, again))
    assert books.counts() == {"/before": 40}
    report = audit(books.settings, books.store)
    assert not report.differences
    assert report.balance["lost"] == lost
    again.close()
    books.close()


def has_posted(books: Books, poster: Poster | None = None) -> bool:
    """Post a round, if the ledger is there."""
    try:
        (poster or books.poster).round()
    except LedgerUnavailableError:
        return False
    return True


def test_a_stale_map_is_mended_by_the_first_refusal(cluster: Cluster, settings: Settings) -> None:
    """A process that slept through a move is refused once, looks anew, and posts."""
    books = Books(settings)
    books.note(*[b"/%d" % number for number in range(200)])
    books.poster.post_now()
    slot = key_slot(b"7")
    source = cluster.primary_of(7)
    target = next(each for each in cluster.masters if each is not source and each.info("role") == "master")
    cluster.begin_move(slot, source, target)
    cluster.end_move(slot, source, target)
    books.note(*[b"/%d" % number for number in range(200)])
    with pytest.raises(LedgerUnavailableError, match="MOVED"):
        books.poster.post_now()
    books.poster.post_now()
    assert books.counts() == {f"/{number}": 2 for number in range(200)}
    books.close()


def test_shards_are_spread_over_the_masters(settings: Settings) -> None:
    """All three masters have shards, and the meta hash, which is in none, is found too."""
    store = LedgerStore(settings)
    shards = store.identity.shards
    owners = {store.reader(shard).connection_pool.connection_kwargs["port"] for shard in range(shards)}
    assert len(owners) == 3
    assert store._connections.keeper(store.key("meta")).hget(store.key("meta"), "shards") == str(shards)
    store.close()


def test_a_cluster_of_one_master_is_read_as_any_other(tmp_path: Path) -> None:
    """Where one node has all shards, which no transaction may span, pages have what the host has journalled."""
    with Cluster(tmp_path / "cluster", 1, replicas=False) as cluster:
        settings = Settings(redis_url=cluster.url, data_dir=tmp_path / "data")
        counter = HitCounter(settings, LedgerStore(settings))
        reports = Reports(counter.store, settings)
        for number in range(40):
            counter.note(b"/%d" % (number % 20), "200")
            page = reports.page(Query(limit=7), counter)
            assert page.total_requests == number + 1
        assert counter.store.identity.shards > 1
        assert {row.requests for row in reports.page(Query(limit=7, cursor=page.cursor), counter).rows} == {2}
        assert counter.stop()


def count_of(books: Books, number: int) -> int:
    """Return the hits of one of the URLs."""
    url = f"/{number}"
    shard = shard_of(url, books.store.identity.shards)
    score: Any = books.store.reader(shard).zscore(books.store.set_key(shard), url)
    return int(score)


def test_the_others_go_on_without_a_master(tmp_path: Path) -> None:
    """While a master is away that nobody replaces, the other shards get their hits; its own follow once it is back."""
    paths = [b"/%d" % number for number in range(200)]
    options = ("--cluster-require-full-coverage", "no")
    with Cluster(tmp_path / "cluster", replicas=False, options=options) as cluster:
        books = Books(Settings(redis_url=cluster.url, data_dir=tmp_path / "data"))
        books.note(*paths)
        books.poster.post_now()
        gone = cluster.masters[1]
        shards = [shard for shard in range(books.store.identity.shards) if cluster.primary_of(shard) is not gone]
        living = [number for number in range(200) if shard_of(f"/{number}", books.store.identity.shards) in shards]
        gone.kill()
        books.note(*paths)
        with pytest.raises(LedgerUnavailableError):
            books.poster.post_now()
        assert [count_of(books, number) for number in living] == [2] * len(living)
        assert 50 < len(living) < 200
        gone.start()
        cluster.wait_well()
        wait_until(lambda: has_posted(books))
        assert set(books.counts().values()) == {2}
        books.close()
