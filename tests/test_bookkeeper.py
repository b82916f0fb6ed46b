"""The background of a process: the journal is looked after whatever becomes of posting."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hitledger.bookkeeper import Bookkeeper
from hitledger.counting import HitCounter
from hitledger.errors import LedgerMismatchError, LedgerUnavailableError
from hitledger.host import Host
from hitledger.journal import PATH, JournalWriter
from hitledger.ledger import LedgerStore
from hitledger.posting import CHECK_SECONDS, LOOK_SECONDS, Poster
from hitledger.settings import Settings
from tests.books import counts_of
from tests.proxy import Proxy
from tests.servers import Server
from tests.support import Valkey, wait_until


@pytest.fixture
def proxy(valkey: Valkey) -> Iterator[Proxy]:
    """A proxy before the session's server."""
    with valkey.proxy() as proxy:
        yield proxy


def test_the_journal_is_synced_while_the_ledger_does_not_answer(settings: Settings, proxy: Proxy) -> None:
    """While posting waits for an answer that does not come, the journal's turn comes again and again."""
    proxy.hold()
    settings = replace(settings, redis_url=proxy.url)
    store = LedgerStore(settings)
    poster = Poster(settings, store)
    posting: list[bool] = []
    bookkeeper = Bookkeeper(poster, lambda: posting.append(poster._mutex.locked()), interval_seconds=0.001)
    bookkeeper.start()
    wait_until(lambda: posting.count(True) >= 3)
    proxy.heal()
    bookkeeper.stop()
    store.close()


def test_posting_goes_on_where_the_journal_cannot_be_looked_after(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in the journal's turn, such as no descriptor to spare, stops neither thread, and is told at the end."""
    store = LedgerStore(settings)
    turns: list[int] = []

    def fail() -> None:
        turns.append(1)
        raise OSError(24, "Too many open files")

    bookkeeper = Bookkeeper(Poster(settings, store), fail, interval_seconds=0.001)
    bookkeeper.start()
    wait_until(lambda: len(turns) >= 2 and store.reader(0).exists(store.key("meta")))
    assert bookkeeper.stop()
    assert "stopped with hits still in the journal" in caplog.text
    store.close()


def test_a_fork_while_the_threads_are_started(settings: Settings, store: LedgerStore) -> None:
    """A child that is forked off in that moment starts its own, and waits for nobody."""
    bookkeeper = Bookkeeper(Poster(settings, store), lambda: None, interval_seconds=0.001)
    with bookkeeper._starting:
        child = os.fork()
        if not child:
            signal.alarm(20)  # a child that waits is killed
            bookkeeper.start()
            os._exit(0 if bookkeeper.stop() else 1)
    assert os.waitpid(child, 0)[1] == 0


class Clock(Host):
    """A host whose clocks stand still until they are set."""

    def __init__(self) -> None:
        self.seconds = Host.now()
        self.now = lambda: self.seconds
        self.monotonic = lambda: self.seconds


def test_a_process_leaves_posting_to_another_that_has_just_done_it(settings: Settings, store: LedgerStore) -> None:
    """A host's posters take no turns: whoever posted last goes on, unless it fails, stops, or is not looked at."""
    host = Clock()
    first, second = (Poster(settings, store, host=host) for _ in range(2))
    assert not first.is_done_elsewhere(1)
    first.round()
    assert not second.is_done_elsewhere(1)
    second.round()
    assert (first.is_done_elsewhere(0.1), second.is_done_elsewhere(0.1)) == (True, False)
    host.seconds += 0.2
    assert not first.is_done_elsewhere(0.1)
    host.seconds -= 0.4  # a clock that was set back
    assert not first.is_done_elsewhere(0.1)
    host.seconds += 1 + LOOK_SECONDS
    second.round()
    assert not first.is_done_elsewhere(0.1)
    first.round()
    assert second.is_done_elsewhere(0.1)
    for poster in (first, second):
        poster.close()


def test_a_round_that_failed_is_not_done(settings: Settings, proxy: Proxy) -> None:
    """A poster that could not reach the ledger leaves the posting to the next that tries."""
    host, away = Clock(), LedgerStore(replace(settings, redis_url=proxy.url))
    store = LedgerStore(settings)
    failing, other = Poster(settings, away, host=host), Poster(settings, store, host=host)
    journal = JournalWriter(settings.journal_dir)
    journal.append(PATH, b"/")
    failing.round()
    other.round()
    assert failing.is_done_elsewhere(60)
    proxy.refuse()
    with pytest.raises(LedgerUnavailableError):
        failing.post_now()
    assert not other.is_done_elsewhere(60)
    assert not failing.is_done_elsewhere(60)
    for each in (journal, failing, other, away, store):
        each.close()


def test_posting_that_is_behind_is_told_once(
    settings: Settings, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While a round goes on and on, one line says so, and one more when it has come to its end."""
    monkeypatch.setattr("hitledger.bookkeeper.BEHIND_SECONDS", 0.05)
    proxy.hold()
    store = LedgerStore(replace(settings, redis_url=proxy.url))
    turns: list[int] = []
    bookkeeper = Bookkeeper(Poster(settings, store), lambda: turns.append(1), interval_seconds=0.001)
    bookkeeper.start()
    wait_until(lambda: "posting is behind" in caplog.text)
    seen = len(turns)
    wait_until(lambda: len(turns) > seen + 3)
    proxy.heal()
    wait_until(lambda: "posting has caught up" in caplog.text)
    # On a busy machine the next round may be a long one, too: what counts is one line before it is caught up.
    assert caplog.text.partition("posting has caught up")[0].count("posting is behind") == 1
    bookkeeper.stop()
    store.close()


@pytest.mark.parametrize("refused", ["__init__", "start"])
def test_a_process_that_may_start_no_thread_counts(
    settings: Settings,
    store: LedgerStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    refused: str,
) -> None:
    """At a limit of threads, or in an interpreter that takes none, hits are journalled for whoever posts next."""

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    counter = HitCounter(settings, store)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, refused, refuse)
        assert counter.note(b"/a", "200")
    assert "hits wait in the journal" in caplog.text
    counter.post_now()
    assert counts_of(store) == {"/a": 1}
    counter.stop()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server whose settings a test may change."""
    with Server(tmp_path / "own", "--maxmemory-policy", "noeviction") as server:
        yield server


def test_a_server_that_begins_to_evict_is_posted_to_no_more(settings: Settings, own_server: Server) -> None:
    """Its policy is looked at again and again: hits then wait in the journal, and are posted once it is as it was."""
    settings = replace(settings, redis_url=own_server.url)
    host, store, journal = Clock(), LedgerStore(settings), JournalWriter(settings.journal_dir)
    poster = Poster(settings, store, host=host)
    journal.append(PATH, b"/")
    poster.round()
    own_server.ask("CONFIG SET", "maxmemory-policy", "allkeys-lfu")
    journal.append(PATH, b"/")
    host.seconds += CHECK_SECONDS
    for _ in range(3):
        with pytest.raises(LedgerMismatchError, match="maxmemory-policy allkeys-lfu"):
            poster.round()
    assert counts_of(store) == {"/": 1}
    own_server.ask("CONFIG SET", "maxmemory-policy", "noeviction")
    poster.round()
    assert counts_of(store) == {"/": 2}
    for each in (poster, journal, store):
        each.close()


class Counted(LedgerStore):
    """Counts how often its servers are checked."""

    checks = 0

    def check(self) -> None:
        """Check, and count it."""
        self.checks += 1
        super().check()


def test_a_refusal_is_told_once(settings: Settings, own_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """However often posting is tried meanwhile, the log has one line for what needs a person, and one for its end."""
    own_server.ask("CONFIG SET", "maxmemory-policy", "allkeys-lru")
    store = Counted(replace(settings, redis_url=own_server.url))
    bookkeeper = Bookkeeper(Poster(settings, store), lambda: None, interval_seconds=0.001)
    bookkeeper.start()
    wait_until(lambda: store.checks >= 5)
    own_server.ask("CONFIG SET", "maxmemory-policy", "noeviction")
    wait_until(lambda: "the ledger is back" in caplog.text)
    assert bookkeeper.stop()
    assert caplog.text.count("posting failed") == 1
    assert "Traceback" not in caplog.text
    store.close()
