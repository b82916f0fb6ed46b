"""acl: the ledger's door. By TLS only, with a certificate and a password, and then to as little as will do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner

import hitledger
from hitledger.acl import BROKER, DEFAULT, users
from hitledger.audit import audit
from hitledger.cli import commands
from hitledger.connections import connect
from hitledger.doctor import examine
from hitledger.errors import LedgerError, LedgerUnavailableError, SettingsError
from hitledger.findings import FAIL
from hitledger.ledger import LedgerStore
from hitledger.posting import Poster
from hitledger.report import Query, Reports
from hitledger.settings import Settings
from hitledger.testrun.queue import PartQueue
from tests.books import Books
from tests.guarded import PASSWORD, TLSServer

DOCS = Path(__file__).parent.parent / "docs" / "ledger-servers.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TLSServer]:
    """A Valkey that speaks TLS only, wants a certificate, and has the users that are printed."""
    with TLSServer(tmp_path_factory.mktemp("tls"), "hitledger") as server:
        yield server


@pytest.fixture
def environment(server: TLSServer, tmp_path: Path) -> dict[str, str]:
    """The settings that open its door."""
    server.client.flushall()
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    made = server.certificates
    return {
        "HITLEDGER_REDIS_URL": server.plain_url, "HITLEDGER_REDIS_PASSWORD_FILE": str(secret),
        "HITLEDGER_REDIS_CA_FILE": str(made.authority), "HITLEDGER_REDIS_CERT_FILE": str(made.client),
        "HITLEDGER_REDIS_KEY_FILE": str(made.client_key), "HITLEDGER_DATA_DIR": str(tmp_path / "data"),
        "HITLEDGER_JOURNAL_HOLD_SECONDS": "0",
    }  # fmt: skip


def test_the_books_behind_the_door(server: TLSServer, environment: dict[str, str]) -> None:
    """The service's user posts, reads, closes files, audits and resets by TLS; what it may not is refused."""
    books = Books(Settings.from_environment(environment))
    books.note(*[b"/%d" % (number % 50) for number in range(1000)])
    books.poster.post_now()
    assert books.counts() == {f"/{number}": 20 for number in range(50)}
    books.journal.close()
    for _ in range(3):
        books.poster.round()
    assert not books.files()
    assert not audit(books.settings, books.store).differences
    assert not [each for each in examine(books.settings) if each.status == FAIL]
    assert books.store.reset() == 1000
    for words in (
        ("FLUSHALL",),
        ("SET", "other", "1"),
        ("CONFIG SET", "appendfsync", "no"),
        ("KEYS", "*"),
        ("ACL LIST",),
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            books.store.reader(0).execute_command(*words)
    books.close()
    assert server.client.acl_log() != []


def test_test_runs_behind_the_door(environment: dict[str, str]) -> None:
    """Celery's queue speaks TLS with the same files, and needs no right that is not printed."""
    queue = PartQueue(Settings.from_environment(environment))
    assert queue.is_empty()
    queue.send("run", [0, 1])
    assert not queue.is_empty()


def test_counts_outlive_a_restart(server: TLSServer, environment: dict[str, str]) -> None:
    """With `default` locked as it is printed, the server reads its file back whole, scripts' effects too."""
    books = Books(Settings.from_environment(environment))
    books.note(b"/a", b"/a")
    books.poster.post_now()
    server.kill()
    server.start()
    assert books.counts() == {"/a": 2}
    assert not audit(books.settings, books.store).differences
    books.close()


def test_a_reader_reads(server: TLSServer, environment: dict[str, str], tmp_path: Path) -> None:
    """Pages, totals and the audit are there for the reader's user; nothing can be changed as it."""
    books = Books(Settings.from_environment(environment))
    books.note(*[b"/%d" % (number % 7) for number in range(100)])
    books.poster.post_now()
    reading = Settings(redis_url=server.url_of("hitledger-reader"), data_dir=tmp_path / "reader")
    store = LedgerStore(reading)
    Poster(reading, store).post_now()
    first = Reports(store, reading).page(Query.read({"limit": "3"}))
    assert first.total_requests == 100
    second = Reports(store, reading).page(Query.read({"limit": "3", "cursor": str(first.cursor)}))
    assert [row.url for row in (*first.rows, *second.rows)] == ["/1", "/0", "/6", "/5", "/4", "/3"]
    assert len([flat for rows in Reports(store, reading).rows(Query.read({})) for flat in rows]) == 14
    assert not audit(reading, store).differences
    with pytest.raises(LedgerError, match=r"NOPERM|permission"):
        store.reset()
    for words in (("ZADD", "hitledger:{0}:all", 1, "x"), ("GET", "other"), ("DEL", "hitledger:meta")):
        with pytest.raises(redis.exceptions.NoPermissionError):
            store.reader(0).execute_command(*words)
    assert books.counts()["/1"] == 15
    store.close()
    books.close()


def test_maintenance_maintains(server: TLSServer, environment: dict[str, str]) -> None:
    """The operator's user has the file rewritten and sees the settings, and no counts."""
    del environment
    client = redis.Redis.from_url(server.url_of("hitledger-maintenance"))
    assert client.bgrewriteaof()
    assert client.config_get("appendfsync")
    with pytest.raises(redis.exceptions.NoPermissionError):
        client.hgetall("hitledger:meta")
    client.close()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"HITLEDGER_REDIS_CERT_FILE": "", "HITLEDGER_REDIS_KEY_FILE": ""}, LedgerUnavailableError),
        ({"HITLEDGER_REDIS_CA_FILE": ""}, LedgerUnavailableError),
        ({"HITLEDGER_REDIS_URL": "plain"}, LedgerUnavailableError),
        ({"HITLEDGER_REDIS_URL": "nobody"}, LedgerError),
        ({"HITLEDGER_REDIS_URL": "default"}, LedgerError),
        ({"HITLEDGER_REDIS_PASSWORD_FILE": "wrong"}, LedgerError),
    ],
)
def test_a_door_stays_shut(
    server: TLSServer, environment: dict[str, str], tmp_path: Path, change: dict[str, str], error: type[LedgerError]
) -> None:
    """Without a certificate, to an unknown authority, in the clear, as another or with a wrong password."""
    ((name, text), *_) = change.items()
    if text in ("nobody", "default"):
        change = {name: server.plain_url.replace("hitledger", text)}
    elif text == "plain":
        change = {name: f"redis://127.0.0.1:{server.port}", **{key: "" for key in environment if "_FILE" in key}}
    elif text == "wrong":
        (tmp_path / "wrong").write_text("wrong")
        change = {name: str(tmp_path / "wrong")}
    store = LedgerStore(Settings.from_environment(environment | change))
    with pytest.raises(error) as caught:
        store.open()
    assert PASSWORD not in str(caught.value)
    assert str(server.port) not in str(caught.value)
    store.close()


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"HITLEDGER_REDIS_URL": ""}, "no server"),
        ({"HITLEDGER_REDIS_URL": "redis://hitledger@h"}, "no scheme of TLS"),
        ({"HITLEDGER_REDIS_URL": "rediss://hitledger:sesame@h"}, "a password already"),
        ({"HITLEDGER_REDIS_URL": "rediss://h?ssl_keyfile=x"}, "ssl_keyfile already"),
        ({"HITLEDGER_REDIS_PASSWORD_FILE": "/nothing/there"}, "cannot be read"),
        ({"HITLEDGER_REDIS_PASSWORD_FILE": "/dev/null"}, "is empty"),
        ({"HITLEDGER_REDIS_KEY_FILE": "/nothing/there"}, "cannot be read"),
    ],
)
def test_a_door_that_cannot_be(environment: dict[str, str], change: dict[str, str], wrong: str) -> None:
    """What does not fit together stops the start, with a line that holds no password."""
    with pytest.raises(SettingsError, match=wrong) as caught:
        Settings.from_environment(environment | change)
    assert "sesame" not in str(caught.value)


def test_no_password_is_shown(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither `hitledger settings` nor `hitledger acl` prints one; the latter prints its digest."""
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    runner = CliRunner()
    shown = runner.invoke(commands, ["settings"]).output
    printed = runner.invoke(commands, ["acl", "--broker"]).output
    assert "hitledger:***@127.0.0.1" in shown
    for text in (shown, printed):
        assert PASSWORD not in text
        assert "a%20password" not in text
    assert users("hitledger", *BROKER)[0].line("hitledger", PASSWORD) in printed.splitlines()
    assert DEFAULT in printed.splitlines()


def test_doctor_names_a_door_without_a_lock(settings: Settings) -> None:
    """A ledger that is reached in the clear over a network is warned of; behind TLS it is not."""
    for url, status in (("redis://192.0.2.1:1", "warn"), ("rediss://192.0.2.1:1", "ok"), ("redis://localhost:1", "ok")):
        found = {each.check: each.status for each in examine(replace(settings, redis_url=url))}
        assert found["transport"].lower() == status


def test_the_docs_show_what_is_printed() -> None:
    """The users on the page are those that the command prints."""
    page = DOCS.read_text("utf-8")
    shown = re.findall(r"^user .*$", page, re.MULTILINE)
    assert shown == [DEFAULT, *(user.line("hitledger", None) for user in users("hitledger"))]


def test_every_command_of_a_script_is_allowed() -> None:
    """A script that may not finish what it began would book half a batch: no command of one is missing."""
    scripts = Path(hitledger.__file__).parent.joinpath("lua").glob("*.lua")
    used = {
        word.lower() for script in scripts for word in re.findall(r"redis\.call\(\s*'(\w+)'", script.read_text("utf-8"))
    }
    assert len(used) > 15
    assert used - {*users("hitledger")[0].commands} == set()


def test_every_address_may_have_a_door(environment: dict[str, str]) -> None:
    """A cluster's and Sentinels' too: each of their servers is then reached so."""
    for url in ("rediss+cluster://u@a:1,b:2", "rediss+sentinel://u@a:1,b:2/service/0"):
        settings = Settings.from_environment(environment | {"HITLEDGER_REDIS_URL": url})
        assert settings.redis_url
        assert "ssl_keyfile=" in settings.redis_url
        connect(settings.redis_url).close()
