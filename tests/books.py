"""A journal and a ledger side by side, for tests that post by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from hitledger import journal
from hitledger.journal import JournalWriter
from hitledger.ledger import LedgerStore
from hitledger.posting import Poster
from hitledger.settings import Settings


def counts_of(store: LedgerStore) -> dict[str, int]:
    """Return hits by URL, over all shards, as the sorted sets hold them."""
    return _added_up(store, store.set_key)


def routes_of(store: LedgerStore) -> dict[str, int]:
    """Return hits by route, over all shards, as the sorted sets hold them."""
    return _added_up(store, store.routes_key)


def _added_up(store: LedgerStore, key_of: Callable[[int], str]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for shard in range(store.identity.shards):
        for name, hits in store.reader(shard).zscan_iter(key_of(shard)):
            found[str(name)] += int(hits)
    return dict(found)


class Books:
    """One process's journal and poster, and the ledger behind them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = LedgerStore(settings)
        self.journal = JournalWriter(settings.journal_dir, file_bytes=settings.journal_file_bytes)
        self.poster = Poster(settings, self.store)

    def note(self, *paths: bytes) -> None:
        """Journal a hit on each path."""
        for path in paths:
            assert self.journal.append(journal.PATH, path)

    def counts(self) -> dict[str, int]:
        """Return hits by URL."""
        return counts_of(self.store)

    def routes(self) -> dict[str, int]:
        """Return hits by route."""
        return routes_of(self.store)

    def files(self) -> list[Path]:
        """Return the journal files, oldest first."""
        return sorted(self.settings.journal_dir.glob("*.journal"))

    def lose(self, hits: int) -> Path:
        """Have the only file tell of hits that were lost beside it, and return it."""
        (path,) = self.files()
        with path.open("r+b") as file:
            file.seek(journal.TALLY_OFFSET)
            file.write(journal.make_tally(hits))
        return path

    def close(self) -> None:
        """Close everything."""
        self.poster.close()
        self.journal.close()
        self.store.close()
