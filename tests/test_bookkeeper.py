"""The background of a process: the journal is looked after whatever becomes of posting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from hitledger.bookkeeper import Bookkeeper
from hitledger.ledger import LedgerStore
from hitledger.posting import Poster
from hitledger.settings import Settings
from tests.proxy import Proxy
from tests.support import Valkey, wait_until


@pytest.fixture
def proxy(valkey: Valkey) -> Iterator[Proxy]:
    """A proxy before the session's server."""
    with Proxy(valkey.socket) as proxy:
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


def test_posting_goes_on_where_the_journal_cannot_be_looked_after(settings: Settings) -> None:
    """An error in the journal's turn, such as no descriptor to spare, stops neither thread."""
    store = LedgerStore(settings)
    turns: list[int] = []

    def fail() -> None:
        turns.append(1)
        raise OSError(24, "Too many open files")

    bookkeeper = Bookkeeper(Poster(settings, store), fail, interval_seconds=0.001)
    bookkeeper.start()
    wait_until(lambda: len(turns) >= 2 and store.reader(0).exists(store.key("meta")))
    with pytest.raises(OSError, match="Too many"):
        bookkeeper.stop()
    store.close()
