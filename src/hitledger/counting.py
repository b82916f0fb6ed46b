"""Counting in one process: what a hit is noted under, and the background that posts it.

`HitCounter` is what the middlewares share. Its `note` is the whole of what a request pays.
"""

from __future__ import annotations

from typing import NamedTuple

from hitledger.bookkeeper import Bookkeeper
from hitledger.journal import OVERSIZED_KIND, PATH, UNMATCHED_KIND, JournalWriter
from hitledger.ledger import LedgerStore
from hitledger.meters import Meters
from hitledger.pending import Pending
from hitledger.posting import Poster
from hitledger.settings import Settings

JOURNAL = "journal"
"""The row of the host's meters with the hits at the places below."""
RECEIVED, LOST = range(2)


class Told(NamedTuple):
    """Hits of this process: those that it was given, and those of them that it could not journal."""

    received: int
    lost: int


class HitCounter:
    """The journal of this process, and the thread that posts the host's journal files."""

    def __init__(self, settings: Settings, store: LedgerStore) -> None:
        self.settings = settings
        self.store = store
        self.journal = JournalWriter(
            settings.journal_dir,
            sync=settings.journal_sync,
            file_bytes=settings.journal_file_bytes,
            cap_bytes=settings.journal_cap_bytes,
            on_open=self._start,
        )
        self.meters = Meters(settings.meters_dir)
        self._told = Told(0, 0)
        self.poster = Poster(settings, store, meters=self.meters)
        self._bookkeeper = Bookkeeper(self.poster, self._maintain, settings.posting_interval_ms / 1000)
        self._by_path = settings.count_unmatched
        self._most = settings.max_path_bytes
        self.refuses = settings.on_journal_failure == "refuse"
        """True where a request that cannot be counted is answered with 503."""
        self._uncounted = frozenset(path for path in settings.uncounted_paths if not path.endswith("*"))
        self._uncounted_prefixes = tuple(path[:-1] for path in settings.uncounted_paths if path.endswith("*"))

    @classmethod
    def from_environment(cls) -> HitCounter:
        """Make one from `HITLEDGER_*`. Raises SettingsError, or LedgerError where no ledger is set."""
        settings = Settings.from_environment()
        return cls(settings, LedgerStore(settings))

    def is_counted(self, path: str) -> bool:
        """Tell whether requests for a path count at all: health checks and static files do not."""
        return path not in self._uncounted and not path.startswith(self._uncounted_prefixes)

    def note(self, path: bytes, status: str) -> bool:
        """Journal one answered request; return False where the hit is lost.

        `status` is the answer's status line or code: 404 and 405 count as unmatched.
        """
        if len(path) > self._most:
            return self.journal.append(OVERSIZED_KIND, b"")
        if (status.startswith(("404", "405"))) and not self._by_path:
            return self.journal.append(UNMATCHED_KIND, b"")
        return self.journal.append(PATH, path)

    def start(self) -> None:
        """Start posting in the background now, and not only at the first hit."""
        self._start()

    def _start(self) -> None:
        self._bookkeeper.start()

    def _maintain(self) -> None:
        self.journal.maintain()
        self._meter()
        self.meters.save_if_due()

    def _meter(self) -> None:
        """Add what was received and lost since last time to the host's meters."""
        now, told = Told(self.journal.received, self.journal.lost), self._told
        if now.received < told.received:
            told = Told(0, 0)  # in a process that was forked off
        if now.received > told.received:
            self.meters.add(JOURNAL, RECEIVED, now.received - told.received)
        if now.lost > told.lost:
            self.meters.add(JOURNAL, LOST, now.lost - told.lost)
        self._told = now

    def pending(self) -> Pending | None:
        """Return what this host has journalled and not posted; None where only posting can tell."""
        return self.poster.pending()

    def post_now(self) -> None:
        """Post all that this host has journalled, as readers do first. Raises LedgerError, at once where it is away."""
        self.poster.post_now(patient=False)

    def stop(self) -> None:
        """Sync, post what there is and close everything; never raises for a ledger that is away."""
        self._bookkeeper.stop()
        self.journal.close()
        self.poster.close()
        self.meters.close()
        self.store.close()
