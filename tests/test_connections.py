"""connections: one contract, whatever kind of server keeps the ledger, and what is said of those that cannot."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from hitledger import connections
from hitledger.acl import users
from hitledger.addresses import Node, hide_password, read_address
from hitledger.audit import audit
from hitledger.connections import ManyServers, connect, server_errors
from hitledger.entries import Batch, Hits, Watermark
from hitledger.errors import LedgerError, LedgerMismatchError, LedgerUnavailableError
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
from tests.books import Books
from tests.processes import Running
from tests.servers import Cluster, Sentinels, Server, TLSFront, redis_binary
from tests.support import Valkey, wait_until

JOURNAL = "0006400000000000-" + "ab" * 16
HOUR = 498_000
_prefixes = itertools.count()


@pytest.fixture(scope="session")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The smallest cluster there is."""
    with Cluster(tmp_path_factory.mktemp("one-node"), 1, replicas=False) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three masters and three replicas."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinels]:
    """A primary, a replica and three Sentinels."""
    with Sentinels(tmp_path_factory.mktemp("sentinels")) as sentinels:
        yield sentinels


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Redis 8.2."""
    with Server(tmp_path_factory.mktemp("redis"), binary=redis_binary()) as server:
        yield server


KINDS = [
    "valkey",
    "one_node",
    pytest.param("cluster", marks=pytest.mark.slow),
    pytest.param("sentinels", marks=pytest.mark.slow),
    pytest.param("redis_server", marks=pytest.mark.slow),
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which kind of server."""
    return str(request.param)


@pytest.fixture
def settings(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """A ledger of the test's own on that kind of server."""
    server = request.getfixturevalue(kind)
    return Settings(redis_url=server.url, data_dir=tmp_path / "data", key_prefix=f"test-contract-{next(_prefixes)}")


@pytest.fixture
def store(settings: Settings) -> Iterator[LedgerStore]:
    """Its store."""
    store = LedgerStore(settings)
    yield store
    store.close()


@pytest.fixture
def administrators(store: LedgerStore, kind: str, request: pytest.FixtureRequest) -> list[redis.Redis]:
    """Clients of its servers that may do everything."""
    server = request.getfixturevalue(kind)
    return [server.client] if isinstance(server, Valkey) else [each.client for each in store._connections.servers()]


def batch_for(shard: int, hits: int = 3, before: Watermark | None = None) -> Batch:
    """Return a batch of so many hits on one URL, and one on a line."""
    old = before or Watermark()
    wanted = Watermark(old.offset + 100, old.hits + hits + 1, old.crc + 1)
    return Batch(shard, JOURNAL, before, wanted, {HOUR: Hits({f"/{shard}": hits}, {"(unmatched)": 1})})


def test_a_ledger_is_found_again(store: LedgerStore, settings: Settings, kind: str) -> None:
    """The first to come makes it, with 64 shards in a cluster and else 1; all others find the same one."""
    made = store.open()
    assert made.shards == (64 if kind in ("cluster", "one_node") else 1)
    other = LedgerStore(settings)
    assert other.identity == made
    other.close()
    with pytest.raises(LedgerMismatchError, match=f"has {made.shards} shards and HITLEDGER_SHARDS asks for 5"):
        LedgerStore(replace(settings, shards=5)).open()


def test_a_lost_meta_hash_is_made_anew_as_it_was(store: LedgerStore, settings: Settings) -> None:
    """Where only the meta hash is gone, the shards still know their ledger's id and how many they are."""
    five = LedgerStore(replace(settings, shards=5))
    made = five.open()
    five._connections.keeper(five.key("meta")).delete(five.key("meta"))
    assert store.open() == replace(made, made=store.identity.made)
    five.close()


def test_a_batch_is_booked_once(store: LedgerStore) -> None:
    """The first call books it, and any other finds it there; each shard has its own watermark and outcome."""
    shards = store.identity.shards
    batches = [batch_for(shard) for shard in range(shards)]
    assert [outcome.word for outcome in store.post(batches)] == ["posted"] * shards
    assert [outcome.word for outcome in store.post(batches)] == ["duplicate"] * shards
    totals = store.totals()
    assert (totals.requests, totals.urls, totals.lines) == (4 * shards, shards, {"(unmatched)": shards})
    assert store.watermarks([JOURNAL, "other"]) == {
        JOURNAL: [batch.wanted for batch in batches],
        "other": [None] * shards,
    }


def test_a_batch_that_begins_elsewhere_is_not_booked(store: LedgerStore) -> None:
    """Whoever is not where the watermark stands is told where it stands, and changes nothing."""
    last = store.identity.shards - 1
    first = batch_for(last)
    store.post([first])
    (outcome,) = store.post([batch_for(last, 7)])
    assert (outcome.word, outcome.watermark, outcome.done) == ("elsewhere", first.wanted, False)
    (outcome,) = store.post([batch_for(last, 7, first.wanted)])
    assert outcome.word == "posted"
    assert store.totals().requests == 12


def test_a_broken_shard_spoils_no_other(store: LedgerStore) -> None:
    """A shard whose keys are of a wrong type refuses, with nothing changed; the others' batches are booked."""
    last = store.identity.shards - 1
    batches = [batch_for(shard) for shard in {0, last}]
    store._connections.poster(last).set(store.set_key(last), "text")
    *others, broken = store.post(batches)
    assert broken.word == "unknown"
    assert "wrong type" in str(broken.error)
    assert all(outcome.done for outcome in others)
    assert store.watermarks([JOURNAL])[JOURNAL][last] is None
    store._connections.poster(last).delete(store.set_key(last))
    assert all(outcome.done for outcome in store.post(batches))


def test_confirming_needs_the_watermark_where_it_should_be(store: LedgerStore) -> None:
    """What is posted is on disk; what is not, or not any more, is not."""
    shards = store.identity.shards
    batches = [batch_for(shard) for shard in range(shards)]
    marks = [batch.wanted for batch in batches]
    store.post(batches[:-1])
    assert not store.confirm(JOURNAL, marks)
    store.post(batches[-1:])
    assert store.confirm(JOURNAL, marks)
    assert store.totals().requests == 4 * shards


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cluster", "sentinels"])
def test_replicas_are_asked_too(store: LedgerStore) -> None:
    """So many replicas must have it on disk as there should be; no server has more than it has."""
    batches = [batch_for(shard) for shard in range(store.identity.shards)]
    store.post(batches)
    marks = [batch.wanted for batch in batches]
    assert store.confirm(JOURNAL, marks, 1)
    assert not store.confirm(JOURNAL, marks, 2)


def test_servers_that_forgot_the_scripts(store: LedgerStore, administrators: list[redis.Redis]) -> None:
    """A server that was restarted, or took over, is given the scripts again; a confirmation waits for it."""
    shard = store.identity.shards - 1
    first = batch_for(shard)
    store.post([first])
    marks = [first.wanted if each == shard else Watermark() for each in range(store.identity.shards)]
    for client in administrators:
        client.script_flush()
    assert not store.confirm(JOURNAL, marks[shard:])
    (outcome,) = store.post([batch_for(shard, 7, first.wanted)])
    assert outcome.word == "posted"
    assert store.totals().requests == 12


def test_the_books_from_end_to_end(settings: Settings) -> None:
    """Hits go from the journal into the ledger, closed files go, the audit adds up, and a reset empties it."""
    books = Books(replace(settings, journal_hold_seconds=0))
    books.note(*[b"/%d" % (number % 50) for number in range(1000)])
    books.poster.post_now()
    assert books.counts() == {f"/{number}": 20 for number in range(50)}
    books.journal.close()
    for _ in range(3):
        books.poster.round()
    assert not books.files()
    report = audit(books.settings, books.store)
    assert not report.differences
    assert report.balance["posted"] == 1000
    assert books.store.reset() == 1000
    assert books.store.totals().requests == 0
    assert not audit(books.settings, books.store).differences
    assert books.store.retire("f" * 16) == books.store.identity.shards
    books.close()


def test_a_node_of_a_cluster_is_no_single_server(one_node: Cluster, tmp_path: Path) -> None:
    """An address that leaves out what the server is gets one line that says how to write it."""
    store = LedgerStore(Settings(redis_url=one_node.servers[0].url, data_dir=tmp_path))
    with pytest.raises(LedgerMismatchError, match=r"redis\+cluster://"):
        store.open()
    store.close()


def test_a_single_server_is_no_cluster(tmp_path: Path) -> None:
    """A cluster's address with no cluster behind it is a lasting error, not one to wait out."""
    with Server(tmp_path / "single") as server:
        address = server.url.replace("redis:", "redis+cluster:")
        store = LedgerStore(Settings(redis_url=address, data_dir=tmp_path))
        with pytest.raises(LedgerError, match="cluster support disabled") as caught:
            store.open()
        assert not isinstance(caught.value, LedgerUnavailableError)
        store.close()


@pytest.mark.parametrize("scheme", ["redis://", "redis+cluster://", "redis+sentinel://"])
def test_nobody_there(scheme: str, tmp_path: Path) -> None:
    """Servers that cannot be reached may come back; neither the password nor the address is told."""
    url = f"{scheme}user:sesame@127.0.0.1:1" + ("/ledger" if "sentinel" in scheme else "")
    store = LedgerStore(Settings(redis_url=url, data_dir=tmp_path))
    with pytest.raises(LedgerUnavailableError) as caught:
        store.open()
    assert "sesame" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)
    store.close()


def test_a_wrong_password_is_no_outage(tmp_path: Path) -> None:
    """Waiting does not help there, so it is not called unavailable."""
    with Server(tmp_path / "locked", "--requirepass", "sesame") as server:
        store = LedgerStore(Settings(redis_url=f"redis://:wrong@127.0.0.1:{server.port}", data_dir=tmp_path))
        with pytest.raises(LedgerError, match="user name or password") as caught:
            store.open()
        assert not isinstance(caught.value, LedgerUnavailableError)
        store.close()


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (redis.ReadOnlyError("You can't write", status_code="READONLY"), LedgerUnavailableError, "READONLY"),
        (redis.OutOfMemoryError("not allowed", status_code="OOM"), LedgerUnavailableError, "OOM"),
        (redis.ResponseError("MISCONF Errors writing to the AOF"), LedgerUnavailableError, "MISCONF"),
        (redis.ResponseError("NOREPLICAS Not enough good replicas"), LedgerUnavailableError, "NOREPLICAS"),
        (redis.BusyLoadingError("loading", status_code="LOADING"), LedgerUnavailableError, "LOADING"),
        (redis.exceptions.MovedError("3 10.0.0.7:1", status_code="MOVED"), LedgerUnavailableError, "MOVED"),
        (redis.exceptions.NoPermissionError("no right", status_code="NOPERM"), LedgerError, "NOPERM no right"),
        (ConnectionResetError(), LedgerUnavailableError, "cannot be reached"),
    ],
)
def test_errors_are_told_apart(error: Exception, kind: type[LedgerError], text: str) -> None:
    """What may pass by itself is unavailable, what will not is an error, and no address is in either."""
    with pytest.raises(kind, match=text) as caught, server_errors():
        raise error
    assert type(caught.value) is kind
    assert "10.0.0.7" not in str(caught.value)


def test_addresses_are_read() -> None:
    """Hosts, ports, users, services, databases and options come out as what they are."""
    cluster = read_address("valkeys+cluster://u:p%40@a:7000,[::1]:7001,c?ssl_ca_certs=/ca.pem")
    assert [str(node) for node in cluster.nodes] == ["a:7000", "[::1]:7001", "c:6379"]
    assert cluster.url_of(cluster.nodes[1]) == "rediss://u:p%40@[::1]:7001?ssl_ca_certs=%2Fca.pem"
    sentinel = read_address("redis+sentinel://:pw@a,b:1/my-service/3?sentinel_password=x%26y")
    assert (sentinel.service, sentinel.sentinel_login) == ("my-service", (None, "x&y"))
    assert [str(node) for node in sentinel.nodes] == ["a:26379", "b:1"]
    assert sentinel.url_of(sentinel.nodes[1]) == "redis://:pw@b:1/3"


@pytest.mark.parametrize(
    "text",
    [
        "redis+cluster://a/1", "redis+cluster://", "redis+cluster://a,", "redis+cluster://a:99999", "redis+x://a",
        "redis+sentinel://a", "redis+sentinel://a/b/c", "redis+sentinel://a/b/1/2", "unix+cluster://a",
        "redis://a:1,b:2", "http://a", "redis://a#b",
    ],
)  # fmt: skip
def test_addresses_that_are_none(text: str) -> None:
    """What cannot be understood whole is refused."""
    with pytest.raises(ValueError, match=r".*"):
        read_address(text)


def test_every_password_in_an_address_is_hidden() -> None:
    """Those of the servers, of the Sentinels, and of a key file."""
    shown = hide_password("rediss+sentinel://u:sesame@a,b/x?sentinel_password=sesame&ssl_password=sesame&db=1")
    assert shown == "rediss+sentinel://u:***@a,b/x?sentinel_password=***&ssl_password=***&db=1"


def test_nothing_is_sent_before_it_is_needed() -> None:
    """Connecting takes no server."""
    for url in ("redis://127.0.0.1:1", "redis+cluster://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/x"):
        connect(url).close()


class SlowDirectory:
    """Finds out who is in charge when it is let; the rest is what a directory of one server says."""

    default_shards = 1

    def __init__(self) -> None:
        self.asked = 0
        self.let = threading.Event()
        self.failure: redis.RedisError | None = None

    def refresh(self) -> None:
        """Take as long as the test wants."""
        self.asked += 1
        self.let.wait(10)
        if self.failure:
            raise self.failure

    def primary_of(self, slot: int) -> Node:
        """Name a port by how often it was asked."""
        del slot
        assert self.let.is_set(), "asked before anything was known"
        return Node("127.0.0.1", self.asked)

    def nodes(self) -> list[tuple[Node, bool]]:
        """Know one."""
        return [(self.primary_of(0), True)]

    def forget(self) -> None:
        """Know nothing that a fork could spoil."""

    def close(self) -> None:
        """Have nothing to close."""


def port_of(client: redis.Redis) -> int:
    """Return the port that a client connects to."""
    return int(client.connection_pool.connection_kwargs["port"])


def test_the_first_look_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody knows yet who is in charge, all wait for the one who asks."""
    monkeypatch.setattr(connections, "LOOK_SECONDS", 0.0)
    directory = SlowDirectory()
    servers = ManyServers(read_address("redis+cluster://127.0.0.1:1"), directory)
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(servers.reader, 0) for _ in range(4)]
        wait_until(lambda: directory.asked)
        directory.let.set()
        assert {port_of(each.result(10)) for each in found} == {1}
    assert directory.asked == 1


def test_trouble_makes_the_next_one_look_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong on a connection is followed by one look; while nobody can say, the last answer holds."""
    monkeypatch.setattr(connections, "LOOK_SECONDS", 0.0)
    directory = SlowDirectory()
    directory.let.set()
    servers = ManyServers(read_address("redis+cluster://127.0.0.1:1"), directory)
    client = servers.reader(0)
    assert port_of(servers.poster(0)) == port_of(client) == 1
    with pytest.raises(redis.ConnectionError):
        client.ping()
    assert port_of(servers.reader(0)) == 2
    assert port_of(servers.reader(0)) == 2
    directory.failure = redis.ConnectionError("nobody there")
    with pytest.raises(redis.ConnectionError):
        servers.reader(0).ping()
    assert directory.asked == 2
    assert port_of(servers.reader(0)) == 3  # asked in vain; what the directory knew last holds
    servers.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one_node", pytest.param("redis_server", marks=pytest.mark.slow)])
def test_the_rights_that_we_name_are_enough(settings: Settings, kind: str, request: pytest.FixtureRequest) -> None:
    """A user with the rules of `hitledger acl` posts, reads, closes files, audits and resets, and no more."""
    server = request.getfixturevalue(kind)
    rules = users("hitledger")[0].line("hitledger", "PASSWORD").split()[1:]
    (server.servers[0] if kind == "one_node" else server).ask("ACL SETUSER", *rules)
    url = str(settings.redis_url).replace("://", "://hitledger:PASSWORD@")
    books = Books(replace(settings, redis_url=url, key_prefix="hitledger", journal_hold_seconds=0))
    books.note(*[b"/%d" % (number % 50) for number in range(1000)])
    books.poster.post_now()
    assert books.counts() == {f"/{number}": 20 for number in range(50)}
    books.journal.close()
    for _ in range(3):
        books.poster.round()
    assert not books.files()
    assert not audit(books.settings, books.store).differences
    assert books.store.reset() == 1000
    assert books.store.retire("f" * 16) == books.store.identity.shards
    for words in (("FLUSHALL",), ("SET", "other", "1"), ("CONFIG SET", "appendfsync", "no"), ("EVAL", "1", 0)):
        with pytest.raises(redis.exceptions.NoPermissionError):
            books.store.reader(0).execute_command(*words)
    books.close()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_a_cluster_with_tls(tmp_path: Path) -> None:
    """Discovery and posting both speak TLS, and neither trusts a certificate that nobody vouched for."""
    with Cluster(tmp_path / "cluster", 1, replicas=False) as cluster:
        front = TLSFront(tmp_path, cluster.servers[0].port)
        cluster.servers[0].ask("CONFIG SET", "cluster-announce-port", front.port)
        url = f"rediss+cluster://127.0.0.1:{front.port}"
        store = LedgerStore(Settings(redis_url=f"{url}?ssl_ca_certs={front.certificate}", data_dir=tmp_path))
        assert [outcome.word for outcome in store.post([batch_for(0), batch_for(63)])] == ["posted", "posted"]
        assert [server.name for server in store.servers()] == [f"127.0.0.1:{front.port}"]
        store.close()
        doubtful = LedgerStore(Settings(redis_url=url, data_dir=tmp_path))
        with pytest.raises(LedgerUnavailableError):
            doubtful.open()
        doubtful.close()
        front.close()


FORKS = """
import os, sys, threading
from pathlib import Path
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
store = LedgerStore(Settings(redis_url=sys.argv[1], data_dir=Path(sys.argv[2]), key_prefix="forks"))
made = store.identity
store._connections._looking.acquire()
store._opening.acquire()
store._connections._note_trouble()
if os.fork() == 0:
    assert store.open() == made
    assert store.totals().requests == 0
    os._exit(7)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_a_fork_starts_anew(one_node: Cluster, tmp_path: Path) -> None:
    """A child does not wait for locks that a thread of its parent held, and has connections of its own."""
    with Running.python(FORKS, one_node.url, str(tmp_path)) as program:
        assert program.line_with("7") == "7"
