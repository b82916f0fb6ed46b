"""The reports of this host that had to be added up, kept while they are of use.

Promised here:

- One report is added up once, however many ask for it at the same time, in whichever process.
- At most one large report is added up at a time on a host, and one small one in a process, and
  only so many wait for one. The others are told when to ask again, and the work goes on meanwhile.
- What is shown is as new as the ledger, unless adding it up took half a second or more: then it
  may be shown for ten times as long as that took, and says of when it is.
- Nothing is kept beyond a number of bytes, or an hour.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from pathlib import Path

from hitledger.dispatch import Command
from hitledger.entries import Totals
from hitledger.errors import LedgerError, ReportBusyError
from hitledger.ledger import LedgerStore
from hitledger.report.apart import build_apart
from hitledger.report.build import Builder, Progress, Recipe, versions_of
from hitledger.report.kept import KeptSections
from hitledger.report.routes import CountedRoutes
from hitledger.report.snapshot import Snapshot
from hitledger.report.turns import Turns
from hitledger.settings import Settings

log = logging.getLogger("hitledger.report")

SMALL_ENTRIES = 100_000
"""Entries of the ledger that are added up at once, about 0.1 s, by whoever asks."""
SLOW_SECONDS = 0.5
SHOWN_TIMES = 10
"""A report that took longer than `SLOW_SECONDS` is shown for so many times as long."""
MOST_BUILDS = 4
"""Large reports of a process that are being added up, or wait for their turn."""
TIDY_EVERY = 16
"""After so many small reports the folder is tidied, too."""
KEPT = timedelta(hours=1)
SUFFIX = ".report"


@dataclass(frozen=True)
class Order:
    """A report that is wanted: where it is kept, and what the ledger says of its sets now."""

    path: Path
    recipe: Recipe
    versions: list[str]
    totals: Totals
    entries: int
    """Entries of the ledger that it is added up from."""

    @property
    def is_small(self) -> bool:
        """True where it is added up at once."""
        return self.entries <= SMALL_ENTRIES


class Shelf:
    """The snapshots in one folder."""

    def __init__(
        self,
        store: LedgerStore,
        settings: Settings,
        directory: Path,
        now: Callable[[], datetime],
        *,
        apart: bool = False,
    ) -> None:
        """With `apart`, large reports are added up in processes of their own."""
        self._apart = apart
        self._store = store
        self._settings = settings
        self._directory = directory
        self._now = now
        self._built = 0
        self._lock = threading.Lock()
        self._running: dict[Path, tuple[Future[None], Progress]] = {}
        places = max(1, settings.threads // 4)
        self._waiting = threading.BoundedSemaphore(places)
        self.turns = Turns(places, settings.report_wait_seconds)
        """For all work on reports that is done in the threads of requests."""

    def order(self, name: str, recipe: Recipe) -> Order:
        """Ask for the report of that name, added up by that recipe. Raises LedgerError."""
        store, periods = self._store, recipe.periods or (None,)
        calls: list[tuple[int, Command]] = [
            (shard, ("HGET", store.totals_key(shard), "before")) for shard in range(store.identity.shards)
        ]
        calls += [call for each in periods for call in store.totals_calls(each)]
        answers = store.read(calls)
        # After a reset there may be as many hits as before it: another number, and other ones.
        resets, answers = answers[: store.identity.shards], answers[store.identity.shards :]
        identity = f"{store.identity.id} {resets} {name}"
        path = self._directory / (blake2b(identity.encode(), digest_size=16).hexdigest() + SUFFIX)
        totals, entries = Totals.of(answers), None
        if recipe.generations:
            entries = KeptSections(self._store, recipe.generations).count_children(recipe.prefix.decode())
        elif recipe.routes:
            entries = CountedRoutes(self._store, periods).count()
        return Order(path, recipe, versions_of(answers), totals, totals.urls if entries is None else entries)

    @contextmanager
    def snapshot(self, order: Order) -> Iterator[tuple[Snapshot, datetime]]:
        """Open the report that was ordered, and tell of when it is.

        Raises:
            TooLargeError: it is larger than the settings allow.
            ReportBusyError: it is not ready yet. LedgerError: the ledger cannot be read.
        """
        found = self._kept(order)
        if found is None:
            self._have_built(order)
            try:
                snapshot = Snapshot(order.path)
            except OSError:
                raise ReportBusyError("The report did not stay for want of room.", 5) from None
            found = snapshot, snapshot.head.moment
        with closing(found[0]):
            yield found

    def is_quick(self, order: Order) -> bool:
        """Tell whether a report is there, or is small enough to be added up at once."""
        found = self._kept(order)
        if found:
            found[0].close()
        return bool(found) or order.is_small

    def prepare(self, order: Order) -> None:
        """Have a report added up, for whoever asks next; nobody waits for it."""
        with suppress(ReportBusyError, OSError):
            self._start(order)

    def _kept(self, order: Order) -> tuple[Snapshot, datetime] | None:
        """Open the snapshot that is there, if it is new enough."""
        try:
            snapshot = Snapshot(order.path)
        except (OSError, ValueError):
            return None
        head, now = snapshot.head, self._now()
        if order.versions == head.versions:
            return snapshot, now
        if head.seconds >= SLOW_SECONDS and now - head.moment < timedelta(seconds=SHOWN_TIMES * head.seconds):
            return snapshot, head.moment
        snapshot.close()
        return None

    def _have_built(self, order: Order) -> None:
        if order.is_small:
            with self.turns.turn():
                self._build_unless_kept(order, self._builder(order))
            return
        future, progress = self._start(order)
        if not self._waiting.acquire(blocking=False):
            raise ReportBusyError("Other reports are being added up.", 5)
        try:
            future.result(self._settings.report_wait_seconds)
        except FutureTimeoutError:
            percent = 100 * progress.done // max(1, progress.of)
            raise ReportBusyError(f"The report is being added up; {percent} % are done.", 5) from None
        finally:
            self._waiting.release()

    def _builder(self, order: Order) -> Builder:
        return Builder(self._store, order.recipe, order.path, self._now)

    def _start(self, order: Order) -> tuple[Future[None], Progress]:
        """Have a thread of its own build a snapshot, unless one does already."""
        path = order.path
        with self._lock:
            if path in self._running:
                return self._running[path]
            if len(self._running) >= MOST_BUILDS:
                raise ReportBusyError("Other reports are being added up.", 5)
            builder = self._builder(order)
            future: Future[None] = Future()
            self._running[path] = future, builder.progress
        # A daemon: a process that is told to end does not wait for it.
        threading.Thread(target=self._run, args=(order, builder, future), name="hitledger-report", daemon=True).start()
        return future, builder.progress

    def _run(self, order: Order, builder: Builder, future: Future[None]) -> None:
        failure: BaseException | None = None
        try:
            with _disk_errors(), self._turn():
                self._build_unless_kept(order, builder)
        except BaseException as error:  # noqa: BLE001 - whoever waits for it gets it
            failure = error
        with self._lock:
            del self._running[order.path]
        if failure is None:
            future.set_result(None)
        else:
            future.set_exception(failure)

    def _build_unless_kept(self, order: Order, builder: Builder) -> None:
        """Build a snapshot, unless somebody else has while this thread waited for its turn."""
        found = self._kept(order)
        if found:
            found[0].close()
        else:
            self._build(order, builder)

    def _build(self, order: Order, builder: Builder) -> None:
        with _disk_errors():
            self._directory.mkdir(parents=True, exist_ok=True)
            if self._apart and not order.is_small:
                head = build_apart(self._settings, order.recipe, order.path, builder.progress)
            else:
                head = builder.build(self._settings.report_max_entries)
        if head.seconds >= SLOW_SECONDS:
            log.info("added up a report of %d rows in %.1f s", head.rows, head.seconds)
        self._built += 1
        if head.seconds >= SLOW_SECONDS or self._built % TIDY_EVERY == 0:
            self._tidy(order.path)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Hold the host's lock for adding up a large report."""
        self._directory.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._directory / "building.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _tidy(self, newest: Path) -> None:
        """Delete what is old, what exceeds the room, and what a process that was killed has left; not the newest."""
        room = self._settings.report_cache_bytes
        oldest = (self._now() - KEPT).timestamp()
        files = []
        for entry in os.scandir(self._directory):
            with suppress(FileNotFoundError):
                if entry.name == newest.name:
                    room -= entry.stat().st_size
                    continue
                files.append((entry.stat().st_mtime, entry.stat().st_size, entry))
        for changed, size, entry in sorted(files, key=lambda file: file[0], reverse=True):
            if entry.name.endswith(SUFFIX):
                room -= size
            if changed < oldest or (room < 0 and entry.name.endswith(SUFFIX)):
                with suppress(FileNotFoundError):
                    Path(entry.path).unlink()


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LedgerError(f"A report cannot be written: {error.strerror}.") from error
