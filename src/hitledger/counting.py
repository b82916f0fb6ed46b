"""Counting in one process: what a hit is noted under, and the background that posts it.

`HitCounter` is what the middlewares share. Its `note` is the whole of what a request pays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from hitledger.bookkeeper import Bookkeeper
from hitledger.entries import MOST_ROUTES
from hitledger.forks import tell_of_forks
from hitledger.journal import OVERSIZED_KIND, PATH, UNMATCHED_KIND, JournalWriter
from hitledger.ledger import LedgerStore
from hitledger.meters import Meters
from hitledger.paths import route_of
from hitledger.pending import Pending
from hitledger.posting import Poster
from hitledger.settings import Settings

log = logging.getLogger("hitledger.counting")

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
        self._routes: dict[str, bytes] = {}
        self._route_failed = False
        self._uncounted = frozenset(path for path in settings.uncounted_paths if not path.endswith("*"))
        self._uncounted_prefixes = tuple(path[:-1] for path in settings.uncounted_paths if path.endswith("*"))
        tell_of_forks(self)

    def after_fork_in_child(self) -> None:
        """Let go of what is the parent's, and begin anew."""
        self._told = Told(0, 0)

    @classmethod
    def from_environment(cls) -> HitCounter:
        """Make one from `HITLEDGER_*`. Raises SettingsError, or LedgerError where no ledger is set."""
        settings = Settings.from_environment()
        return cls(settings, LedgerStore(settings))

    def is_counted(self, path: str) -> bool:
        """Tell whether requests for a path count at all: health checks and static files do not."""
        return path not in self._uncounted and not path.startswith(self._uncounted_prefixes)

    def note(self, path: bytes, status: str, route: str | None = None) -> bool:
        """Journal one answered request; return False where the hit is lost.

        `status` is the answer's status line or code: 404 and 405 count as unmatched. A route is
        counted beside whatever the path is counted under.
        """
        known = self._route_of(route) if route else b""
        if len(path) > self._most:
            return self.journal.append(OVERSIZED_KIND, b"", 1, known)
        if (status.startswith(("404", "405"))) and not self._by_path:
            return self.journal.append(UNMATCHED_KIND, b"", 1, known)
        return self.journal.append(PATH, path, 1, known)

    def count(self, path: bytes, hits: int, route: str | None = None) -> bool:
        """Journal hits that are no request of a web application; return False where they are lost."""
        known = self._route_of(route) if route else b""
        kind, path = (OVERSIZED_KIND, b"") if len(path) > self._most else (PATH, path)
        return self.journal.append(kind, path, hits, known)

    def find_route(self, route: Callable[[Any], str | None], place: Any) -> str | None:
        """Ask for a request's route; whatever goes wrong there costs the route, and never the answer."""
        try:
            return route(place)
        except Exception:
            if not self._route_failed:
                log.exception("the route of a request cannot be found; it counts without one, like others after it")
            self._route_failed = True
            return None

    def _route_of(self, template: str) -> bytes:
        """Return a route as it is kept: applications have few, and each is made once."""
        known = self._routes.get(template)
        if known is None:
            if len(self._routes) >= MOST_ROUTES:
                self._routes.clear()
            known = self._routes[template] = route_of(template)
        return known

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

    def stop(self, seconds: float | None = None) -> bool:
        """Sync, post what there is and close everything; never raises for a ledger that is away.

        Return False where that takes longer than `seconds`; the journal keeps what is not posted.
        """
        if not self._bookkeeper.stop(seconds):
            log.warning("posting has not ended within %s s; what is in the journal is posted later", seconds)
            return False
        self.journal.close()
        self.poster.close()
        self.meters.close()
        self.store.close()
        return True
