"""doctor: each condition that the guarantees lean on, broken in turn, is named with its remedy."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import redis
from click.testing import CliRunner

from hitledger import doctor, hostchecks
from hitledger.cli import commands
from hitledger.doctor import as_rows, examine, startup_checks, stop_on_failure
from hitledger.errors import ServiceError
from hitledger.findings import FAIL, OK, UNKNOWN, WARN, Finding, worst
from hitledger.ledger import LedgerStore
from hitledger.servers import ServerFacts, read_version
from hitledger.settings import Settings
from tests.servers import Sentinels, Server, redis_binary
from tests.support import wait_until

USER = "worker on >sesame ~* &* +@all -config -acl"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Valkey that may be spoiled; each test mends it."""
    with Server(tmp_path_factory.mktemp("patient")) as server:
        yield server


@pytest.fixture
def patient(server: Server, tmp_path: Path) -> Iterator[Settings]:
    """Settings for it; its configuration is as shipped again afterwards."""
    yield Settings(redis_url=server.url, data_dir=tmp_path / "data", journal_cap_bytes=2**20, journal_file_bytes=4096)
    for name, value in (("appendfsync", "always"), ("appendonly", "yes"), ("maxmemory-policy", "noeviction")):
        server.ask("CONFIG SET", name, value)


def of(findings: list[Finding], check: str) -> Finding:
    """Return the one finding of a check."""
    (found,) = [each for each in findings if each.check == check]
    return found


def test_a_sound_set_up_is_all_well(patient: Settings) -> None:
    """Nothing is said against what is shipped, nothing is left behind, and the start goes on."""
    findings = examine(patient)
    assert worst(findings) == OK, [str(each) for each in findings if each.status != OK]
    assert {"ledger", "waitaof", "eviction", "journal space", "server clock", "replicas"} <= {
        each.check for each in findings
    }
    stop_on_failure(startup_checks(patient, LedgerStore(patient)))


@pytest.mark.parametrize(
    ("setting", "check", "status", "remedy"),
    [
        ("maxmemory-policy volatile-lru", "eviction", FAIL, "set maxmemory-policy to noeviction"),
        ("appendfsync no", "sync", FAIL, "Set appendfsync to always"),
        ("appendfsync everysec", "sync", WARN, "Set appendfsync to always"),
        ("appendfsync everysec", "waitaof", FAIL, "Set appendfsync to always"),
        ("appendonly no", "aof", WARN, "Set appendonly to yes"),
        ("appendonly no", "waitaof", WARN, "Set appendonly to yes"),
    ],
)
def test_a_setting_of_the_server_is_named(
    patient: Settings, server: Server, setting: str, check: str, status: str, remedy: str
) -> None:
    """What the server does wrong is found by what it does, where it can be, and told with the remedy."""
    LedgerStore(patient).open()
    server.ask("CONFIG SET", *setting.split())
    found = of(examine(patient), check)
    assert found.status == status
    assert remedy in str(found)
    assert found.subject == f"127.0.0.1:{server.port}"


def test_an_unsafe_server_stops_the_start(patient: Settings, server: Server) -> None:
    """What loses counts in silence is refused with one line; what only costs time, or is told later, is not."""
    server.ask("CONFIG SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(ServiceError, match=r"evicts keys .* set maxmemory-policy to noeviction"):
        stop_on_failure(startup_checks(patient, LedgerStore(patient)))
    server.ask("CONFIG SET", "maxmemory-policy", "noeviction")
    server.ask("CONFIG SET", "appendonly", "no")
    findings = startup_checks(patient, LedgerStore(patient))
    assert of(findings, "aof").status == WARN
    stop_on_failure(findings)


def test_a_server_that_does_not_tell_is_unknown(patient: Settings, server: Server) -> None:
    """A managed server that denies CONFIG is not called well, nor ill: what could not be seen is said."""
    server.ask("ACL SETUSER", *USER.split())
    url = f"redis://worker:sesame@127.0.0.1:{server.port}"
    findings = examine(replace(patient, redis_url=url))
    assert of(findings, "sync").status == UNKNOWN
    assert of(findings, "waitaof").status == UNKNOWN
    assert worst(findings) == UNKNOWN
    assert "sesame" not in json.dumps(as_rows(findings))
    server.ask("ACL DELUSER", "worker")


def test_missing_replicas_are_named(patient: Settings, server: Server, tmp_path: Path) -> None:
    """Fewer replicas than must confirm fail; more than must confirm are warned of; as many are well."""
    missing = of(examine(replace(patient, ledger_replicas=1)), "replicas")
    assert missing.status == FAIL
    assert "no journal is deleted" in str(missing)
    with Server(tmp_path / "replica", "--replicaof", f"127.0.0.1 {server.port}") as replica:
        wait_until(lambda: replica.info("master_link_status") == "up")
        wait_until(lambda: of(examine(replace(patient, ledger_replicas=1)), "replicas").status == OK)
        more = of(examine(patient), "replicas")
    assert more.status == WARN
    assert "Set HITLEDGER_LEDGER_REPLICAS to 1" in str(more)


def test_a_ledger_of_another_shape_is_named(patient: Settings) -> None:
    """The ledger's own mismatches are findings too."""
    LedgerStore(patient).open()
    found = of(examine(replace(patient, shards=7)), "ledger")
    assert found.status == FAIL
    assert "HITLEDGER_SHARDS asks for 7" in str(found)


def test_a_ledger_that_is_away_is_named(tmp_path: Path) -> None:
    """Without the server the rest is examined all the same, and the start goes on without it."""
    settings = Settings(redis_url="redis://:sesame@127.0.0.1:1", data_dir=tmp_path)
    findings = examine(settings)
    assert "cannot be reached" in of(findings, "ledger").what
    assert of(findings, "journal file system").status in (OK, WARN)
    stop_on_failure(startup_checks(settings, LedgerStore(settings)))


def test_an_embedded_ledger_that_does_not_run_is_named(tmp_path: Path) -> None:
    """Where no ledger is set, it is the service's own, and that must run."""
    assert "no service runs" in of(examine(Settings(data_dir=tmp_path)), "ledger").what


@pytest.mark.parametrize(
    ("magic", "status", "text"),
    [
        (0x6969, FAIL, "NFS"), (0xFF534D42, FAIL, "CIFS"), (0x65735546, FAIL, "FUSE"),
        (0x01021994, WARN, "tmpfs"), (0x794C7630, WARN, "container's own layer"), (0xEF53, OK, "ext4"),
        (0x12345678, OK, "a local file system"), (None, UNKNOWN, "does not tell"),
    ],
)  # fmt: skip
def test_the_journal_needs_a_local_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, magic: int | None, status: str, text: str
) -> None:
    """File systems whose appends and locks cannot be relied on stop the start; those that vanish are warned of."""
    monkeypatch.setattr(hostchecks, "file_system_magic", lambda _: magic)
    settings = Settings(redis_url="redis://127.0.0.1:1", data_dir=tmp_path)
    found = hostchecks.check_file_system(settings)
    assert (found.status, text in found.what) == (status, True)
    if status == FAIL:
        with pytest.raises(ServiceError, match=text):
            stop_on_failure(startup_checks(settings, LedgerStore(settings)))


def test_the_file_system_is_asked() -> None:
    """The real call knows memory from disk, and a folder that is not there yet by the one above it."""
    assert hostchecks.file_system_magic(Path("/proc")) == 0x9FA0
    if Path("/dev/shm").is_dir():  # noqa: S108 - looked at, not written to
        assert hostchecks.check_file_system(Settings(data_dir=Path("/dev/shm/none/yet"))).status == WARN  # noqa: S108
    with pytest.raises(FileNotFoundError):
        hostchecks.file_system_magic(Path("/none"))


def test_a_journal_that_others_may_read_is_named(tmp_path: Path) -> None:
    """Requested paths may hold secrets: the journal is for its own user."""
    settings = Settings(data_dir=tmp_path)
    settings.journal_dir.mkdir(mode=0o700)
    assert hostchecks.check_permissions(settings).status == OK
    settings.journal_dir.chmod(0o755)
    assert hostchecks.check_permissions(settings).status == WARN
    (tmp_path / "file").touch()
    assert hostchecks.check_permissions(Settings(data_dir=tmp_path / "file")).status == FAIL


def test_a_small_disk_is_named(tmp_path: Path) -> None:
    """Room for the journal's cap is well, less is warned of, and no room for one file fails."""
    small = Settings(data_dir=tmp_path, journal_cap_bytes=65536, journal_file_bytes=4096)
    assert hostchecks.check_space(small).status == OK
    assert hostchecks.check_space(replace(small, journal_cap_bytes=2**50)).status == WARN
    assert hostchecks.check_space(replace(small, journal_file_bytes=2**50)).status == FAIL


def test_a_clock_that_is_not_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hits would be booked in 1970, and journals be older than what the ledger remembers."""
    assert hostchecks.check_clock(Settings(data_dir=tmp_path)).status == OK
    monkeypatch.setattr(hostchecks, "EARLIEST", time.time() + 1000)
    assert hostchecks.check_clock(Settings(data_dir=tmp_path)).status == FAIL


@pytest.mark.parametrize(("ahead", "status"), [(0, OK), (3, WARN), (-3, WARN), (4000, FAIL)])
def test_clocks_that_disagree_are_named(ahead: int, status: str) -> None:
    """The server expires periods by its own clock."""

    class Shifted:
        def time(self) -> tuple[int, int]:
            now = time.time() + ahead
            return int(now), int(now % 1 * 1e6)

    assert doctor._check_clock_of(cast("redis.Redis", Shifted())).status == status


@pytest.mark.parametrize(
    ("took", "status"),
    [([0.2, 1.0, 1.1, 1.0, 1.0], OK), ([0.1, 0.1, 0.1, 0.1, 0.1], FAIL), ([0.9, 0.8, 0.1, 0.9, 0.8], FAIL)],
)
def test_a_busy_machine_makes_no_server_honest(took: list[float], status: str) -> None:
    """Who syncs once a second is waited for each time; who answers before it has is quick at least once."""
    assert doctor._judge(took, "everysec").status == status


def test_few_descriptors_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may open few files cannot serve many connections."""
    monkeypatch.setattr(hostchecks, "FEWEST_DESCRIPTORS", 2**40)
    assert hostchecks.check_descriptors(Settings()).status == WARN


def test_a_network_without_tls_is_named(tmp_path: Path) -> None:
    """A password in the clear is warned of where it leaves the machine."""
    for url, status in (
        ("redis://h:1", WARN), ("rediss://h:1", OK), ("redis://127.0.0.1:1", OK), ("unix:///s", OK),
        ("redis+cluster://127.0.0.1:1,10.0.0.1:1", WARN), ("redis+sentinel://localhost:1/x", OK),
    ):  # fmt: skip
        (found,) = doctor._check_transport(Settings(redis_url=url, data_dir=tmp_path))
        assert found.status == status, url


def test_test_runs_need_a_broker_of_their_own_beside_a_cluster(tmp_path: Path) -> None:
    """Celery cannot use a cluster: that is said at the start, not at the first test run."""
    settings = Settings(redis_url="redis+cluster://127.0.0.1:1", data_dir=tmp_path)
    with pytest.raises(ServiceError, match="need HITLEDGER_BROKER_URL"):
        stop_on_failure(startup_checks(settings, LedgerStore(settings)))
    settings = replace(settings, broker_url="redis://127.0.0.1:2")
    stop_on_failure(startup_checks(settings, LedgerStore(settings)))


@pytest.mark.parametrize(
    ("name", "version", "old", "torn", "drops", "doubles"),
    [
        ("redis", "7.0.15", True, True, True, False), ("redis", "7.2.5", False, True, True, False),
        ("redis", "8.2.3", False, True, True, False), ("valkey", "7.2.8", True, True, True, False),
        ("valkey", "8.0.10", False, True, True, False), ("valkey", "8.0.11", False, False, True, False),
        ("valkey", "8.1.9", False, True, True, False), ("valkey", "8.1.10", False, False, True, False),
        ("valkey", "9.0.1", False, True, True, True), ("valkey", "9.0.2", False, True, True, False),
        ("valkey", "9.1.0", False, False, False, False), ("valkey", "10.0.0-rc1", False, False, False, False),
    ],
)  # fmt: skip
def test_releases_are_known(name: str, version: str, *, old: bool, torn: bool, drops: bool, doubles: bool) -> None:
    """Which release has which trap is written down once."""
    info = {"server_name": name, f"{name}_version": version, "redis_version": "7.2.4", "cluster_enabled": 1}
    facts = ServerFacts.of({**info, f"{name}_version": version})
    found = (facts.is_old, facts.keeps_torn_batches, facts.may_drop_scripts, facts.doubles_keys_in_cluster)
    assert found == (old, torn, drops, doubles)


def test_versions_are_read() -> None:
    """Three numbers, whatever else a release is called."""
    assert [read_version(text) for text in ("9.1.2", "8", "7.4-rc1", "x")] == [
        (9, 1, 2), (8, 0, 0), (7, 4, 0), (0, 0, 0),
    ]  # fmt: skip


def test_the_command_prints_and_exits(patient: Settings, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table for people, JSON for programs; the status is 1 where a check fails."""
    monkeypatch.setenv("HITLEDGER_REDIS_URL", server.url)
    monkeypatch.setenv("HITLEDGER_DATA_DIR", str(patient.data_dir))
    well = CliRunner().invoke(commands, ["doctor"], standalone_mode=False)
    assert well.return_value == 0
    assert "It refuses writes rather than evict keys." in well.output
    server.ask("CONFIG SET", "maxmemory-policy", "allkeys-lru")
    ill = CliRunner().invoke(commands, ["doctor", "--json"], standalone_mode=False)
    assert ill.return_value == 1
    found = json.loads(ill.output)
    assert found["status"] == "fail"
    assert {"check": "eviction", "status": "fail"}.items() <= next(
        each.items() for each in found["findings"] if each["check"] == "eviction"
    )


@pytest.mark.slow
def test_redis_that_would_drop_every_count_is_refused(tmp_path: Path) -> None:
    """With user `default` cut down, Redis forgets every script at its restart: it is not posted to until mended."""
    settings = Settings(redis_url="", data_dir=tmp_path / "data")
    with Server(tmp_path / "redis", binary=redis_binary()) as server:
        settings = replace(settings, redis_url=f"redis://worker:sesame@127.0.0.1:{server.port}")
        server.ask("ACL SETUSER", "worker", "on", ">sesame", "~*", "&*", "+@all")
        with redis.Redis(port=server.port, username="worker", password="sesame") as client:
            client.execute_command("ACL SETUSER", "default", "off")
            findings = examine(settings)
            assert of(findings, "acl").status == FAIL
            with pytest.raises(ServiceError, match="drops every count when it restarts"):
                stop_on_failure(startup_checks(settings, LedgerStore(settings)))
            client.execute_command("ACL SETUSER", "default", "on", "resetpass", "~*", "&*", "+@all")
        assert of(examine(settings), "acl").status == OK


@pytest.mark.slow
def test_redis_that_syncs_every_second_is_honest(tmp_path: Path) -> None:
    """Its WAITAOF waits for the sync: five of them take longer than a second."""
    with Server(tmp_path / "redis", "--appendfsync", "everysec", binary=redis_binary()) as server:
        findings = examine(Settings(redis_url=server.url, data_dir=tmp_path / "data"))
    assert of(findings, "waitaof").status == OK
    assert "waits for its disk" in of(findings, "waitaof").what


@pytest.mark.slow
def test_every_server_is_examined(tmp_path: Path) -> None:
    """Behind Sentinel, the replica's settings count as much as the primary's: it may be promoted."""
    with Sentinels(tmp_path / "sentinels") as sentinels:
        sentinels.second.ask("CONFIG SET", "maxmemory-policy", "allkeys-lru")
        settings = Settings(redis_url=sentinels.url, broker_url="redis://127.0.0.1:1", data_dir=tmp_path / "data")
        evictions = [each for each in examine(settings) if each.check == "eviction"]
        assert [each.status for each in evictions] == [OK, FAIL]
