"""Posting: what a host's journal holds goes into the ledger, exactly once.

    journal file --pread--> whole records added up --> one batch a shard --> ledger

Any process may post, several at once too: the ledger takes a batch only where the shard's
watermark stands at its beginning. The lock file only keeps them from doing the work twice,
so a poster that cannot have it in time goes on without. In it stands who posted last, and
when: 16 hex digits of the poster's, and 20 digits of microseconds since 1970.

Leans on: `LedgerStore.post` for exactness, `Follower` for what is new in a file.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hitledger.entries import LedgerIdentity, Watermark
from hitledger.errors import JournalError, LedgerError, LedgerUnavailableError
from hitledger.follower import Follower, Taken, UrlTable
from hitledger.forks import tell_of_forks
from hitledger.host import Host
from hitledger.housekeeping import Housekeeper, HousekeepingLedger
from hitledger.journal import HEADER_BYTES, SUFFIX
from hitledger.meters import Meters
from hitledger.pending import Pending, pending_of
from hitledger.progress import Progress
from hitledger.settings import Settings

log = logging.getLogger("hitledger.posting")

LOOK_SECONDS = 1.0
"""How often the background looks at the watermarks of files it has posted: a ledger may fall back."""
CHECK_SECONDS = 30.0
"""How often the ledger's servers are checked while posting goes on: somebody may have set them otherwise since."""
AWAY_SECONDS = 0.5
"""How often a reader tries a ledger that is known to be away."""
CROWDED_SECONDS = 0.1
"""How long a reader waits for its turn where half of a server's threads wait for theirs already."""
LOCK_SECONDS = 0.25
"""How long to wait for another poster before going on beside it."""


class PostingLedger(HousekeepingLedger, Protocol):
    """What posting asks of the ledger; `LedgerStore` is it."""

    @property
    def keeps_sections(self) -> bool:
        """Whether it keeps sections, as far as is known."""

    def open(self) -> LedgerIdentity:
        """Look at the ledger anew."""

    def check(self) -> None:
        """See that no server loses or doubles counts in silence."""

    def look(self, journals: Sequence[str]) -> tuple[dict[str, list[Watermark | None]], dict[int, LedgerError]]:
        """Return the watermarks of journal files, and which shards do not answer."""


@dataclass(frozen=True)
class PostingStatus:
    """What the poster of this process knows: bytes not posted yet, and what stops posting, if anything."""

    pending_bytes: int
    error: str


class Poster:
    """Posts all journal files of a host; any number of posters may run at once."""

    def __init__(
        self, settings: Settings, store: PostingLedger, *, host: Host | None = None, meters: Meters | None = None
    ) -> None:
        self._settings = settings
        self._store = store
        self._directory = settings.journal_dir
        self._urls = UrlTable(merge_trailing_slash=settings.merge_trailing_slash)
        self._host = host or Host()
        self._housekeeper = Housekeeper(settings, store, self._host)
        self._progress = Progress(meters)
        self._reset()
        tell_of_forks(self)

    def _reset(self) -> None:
        self._followers: dict[str, Follower] = {}
        self._set_aside: set[str] = set()
        self._troubled: set[str] = set()
        self._mutex = threading.Lock()
        self._room = threading.Semaphore(max(1, self._settings.threads // 2))
        self._lock_fd = -1
        self._token = self._host.random_hex(8).encode()
        self._looked_at = self._checked_at = float("-inf")
        self._error = ""
        self._away: LedgerUnavailableError | None = None
        self._away_at = float("-inf")
        self._started = self._ended = 0
        self._shards_away: dict[int, LedgerError] = {}

    @property
    def status(self) -> PostingStatus:
        """What is known since the last round; asks nobody."""
        total = sum(size - HEADER_BYTES for _, size in self._host.files(self._directory, SUFFIX))
        return PostingStatus(max(0, total - self._posted_bytes()), self._error)

    def _posted_bytes(self) -> int:
        return sum(each.posted - HEADER_BYTES for each in list(self._followers.values()) if each.shards)

    @property
    def unposted(self) -> list[tuple[Path, int]]:
        """Each journal file of the host and up to which byte it was posted, as far as is known; asks nobody.

        Where shards are at different places of a file, it is the hindmost of them that counts.
        """
        posted = {name: each.posted for name, each in list(self._followers.items()) if each.shards}
        return [(path, posted.get(path.name, HEADER_BYTES)) for path, _ in self._host.files(self._directory, SUFFIX)]

    def pending(self) -> Pending | None:
        """Return what is journalled and not posted, asking nobody; None where only posting can tell.

        For any thread: it waits for no other.
        """
        if self._error or self._set_aside or self._troubled:
            return None
        followers = dict(self._followers)
        try:
            present = self._host.names(self._directory, SUFFIX)
        except OSError:
            return None
        # A file that is not there any more was posted whole, or set aside.
        return pending_of([followers[name] for name in present]) if present <= followers.keys() else None

    def post_now(self, *, patient: bool = True) -> None:
        """Post every whole record that the host's journal holds at this moment.

        Without patience, nobody waits for a ledger that is known to be away: one caller tries it
        again now and then, and all others are told at once. Nor do more wait for their turn than
        half of a server's threads, so that readers leave the others to requests that only count.

        Raises:
            LedgerError: the ledger cannot be reached or refuses; what is posted stays posted.
            JournalError: the journal's folder cannot be read.
        """
        waiting_since, mutex = self._started, self._mutex
        away = None if patient else self._away
        is_due = self._host.monotonic() - self._away_at >= AWAY_SECONDS
        if away and not (is_due and mutex.acquire(blocking=False)):
            raise LedgerUnavailableError(away.message, away.hint)
        if not away and not self._has_turn(mutex, patient=patient):
            raise LedgerUnavailableError("The ledger is slow.", "Too many readers wait for it already; try again.")
        try:
            if self._ended > waiting_since:
                return  # a run that began after this call has done it all
            if self._away and not patient and self._started > waiting_since:
                raise LedgerUnavailableError(self._away.message, self._away.hint)  # such a run has failed
            self._run(look=True)
        finally:
            mutex.release()

    def _has_turn(self, mutex: threading.Lock, *, patient: bool) -> bool:
        if patient:
            return mutex.acquire()
        has_room = self._room.acquire(blocking=False)
        try:
            return mutex.acquire(timeout=-1 if has_room else CROWDED_SECONDS)
        finally:
            if has_room:
                self._room.release()

    def round(self) -> None:
        """Post what there is, look for a ledger that fell back, and delete what has been held. Raises as `post_now`."""
        with self._mutex:
            self._run(look=self._host.monotonic() - self._looked_at >= LOOK_SECONDS, keep_house=True)

    def is_done_elsewhere(self, seconds: float) -> bool:
        """Tell whether another poster of this host, the last one, has posted all there was so few seconds ago.

        Each second it says no all the same, so that each process looks for itself.
        """
        if self._lock_fd < 0 or self._error or self._host.monotonic() - self._looked_at >= LOOK_SECONDS:
            return False
        with suppress(OSError, ValueError):
            mark = self._host.pread(self._lock_fd, 36, 0)
            return mark[:16] != self._token and 0 <= self._host.now() - int(mark[16:]) / 1_000_000 < seconds
        return False

    def close(self) -> None:
        """Close every file."""
        with self._mutex:
            self._close_files()
            self._reset()

    def _close_files(self) -> None:
        for follower in self._followers.values():
            follower.close()
        if self._lock_fd >= 0:
            with suppress(OSError):
                self._host.close(self._lock_fd)

    def after_fork_in_child(self) -> None:
        """Let go of what is the parent's, and begin anew."""
        # The files are shared with the parent, and so would their locks be.
        self._close_files()
        self._reset()

    def _run(self, *, look: bool, keep_house: bool = False) -> None:
        self._started += 1
        run, began = self._started, self._host.now()
        self._shards_away = {}
        try:
            self._check_servers()
            with self._posting_lock() as undisturbed:
                look = self._follow_new_files() or look or not undisturbed
                if look:
                    self._look()
                self._post_files()
                for error in self._shards_away.values():
                    raise error  # the other shards have their hits
                if keep_house:
                    self._keep_house()
        except LedgerError as error:
            self._error = error.message
            self._away = error if isinstance(error, LedgerUnavailableError) else None
            self._away_at = self._host.monotonic()
            self._looked_at = float("-inf")
            self._housekeeper.look_again()
            self._progress.failed()
            raise
        if not self._troubled:
            self._progress.came_through(began, self._posted_bytes())
        self._error = ""
        self._away = None
        if look:  # a reader is not content with what the ledger held a second ago
            self._ended = run

    def _check_servers(self) -> None:
        """Post no more where the servers' settings have become such that counts may vanish. Raises LedgerError."""
        now = self._host.monotonic()
        if now - self._checked_at >= CHECK_SECONDS:
            with suppress(LedgerUnavailableError):  # what is away is found out by posting
                self._store.check()
            self._checked_at = now

    @contextmanager
    def _posting_lock(self) -> Iterator[bool]:
        """Hold the host's posting lock; True within where nobody else posted since last time."""
        held = mine = False
        # The lock saves work and no more: on a disk that is full or read-only, go on without.
        with suppress(OSError):
            if self._lock_fd < 0:
                self._host.make_directory(self._directory)
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                self._lock_fd = self._host.open(self._directory / "posting.lock", flags, 0o600)
            held = self._lock_within(LOCK_SECONDS)
            mine = held and self._host.pread(self._lock_fd, 16, 0) == self._token
            if held and not mine:
                self._host.pwrite(self._lock_fd, self._token + b"0" * 20, 0)
        try:
            yield mine
            if held:
                with suppress(OSError):
                    self._host.pwrite(self._lock_fd, self._token + b"%020d" % (self._host.now() * 1_000_000), 0)
        finally:
            if held:
                with suppress(OSError):
                    self._host.unlock(self._lock_fd)

    def _lock_within(self, seconds: float) -> bool:
        deadline = self._host.monotonic() + seconds
        pause = 0.001
        while not self._host.lock(self._lock_fd):
            if self._host.monotonic() >= deadline:
                return False
            # Longer and longer: each look takes the interpreter away from requests.
            self._host.sleep(pause)
            pause = min(0.05, pause * 2)
        return True

    def _follow_new_files(self) -> bool:
        try:
            present = {path.name: path for path, _ in self._host.files(self._directory, SUFFIX)}
        except OSError as error:
            raise JournalError(f"The journal's folder cannot be read: {error.strerror}.") from error
        for name in [name for name in self._followers if name not in present]:
            self._followers.pop(name).close()
        new = False
        for name, path in present.items():
            if name in self._followers or name in self._set_aside:
                continue
            try:
                self._followers[name] = Follower(path, self._urls, self._host)
                new = True
            except FileNotFoundError:
                continue
            except OSError as error:
                self._have_trouble(name, error)
            except JournalError as error:
                self._set_aside.add(name)
                log.error("journal file %s is left alone: %s", name, error)  # noqa: TRY400 - a state, not a crash
        return new

    def _have_trouble(self, name: str, error: OSError) -> None:
        """Say once that a file cannot be read now; it is tried again each round, and holds no other file up."""
        if name not in self._troubled:
            self._troubled.add(name)
            log.error("journal file %s cannot be read: %s", name, error)

    def _look(self) -> None:
        found, away = self._store.look([follower.name for follower in self._followers.values()])
        self._shards_away |= away  # a shard that was passed over stays so for the run, whose end says so
        for name, follower in list(self._followers.items()):
            try:
                follower.look(found[follower.name], self._shards_away)
            except OSError as error:
                self._have_trouble(name, error)
            except JournalError as error:
                self._quarantine(name, str(error))
        self._looked_at = self._host.monotonic()

    def _post_files(self) -> None:
        for name, follower in list(self._followers.items()):
            try:
                if follower.shards and self._follows(follower):
                    self._post_file(follower)
                    self._troubled.discard(name)
            except OSError as error:
                self._have_trouble(name, error)

    def _post_file(self, follower: Follower) -> None:
        with follower.writer_gone() as gone:
            target, follower.with_sections = follower.size, self._store.keeps_sections
        # A writer that goes on in such a file moves on to another once this one is set aside.
        while (gone or not follower.mismatch) and self._follows(follower) and follower.reached < target:
            taken = follower.take(ended=gone)
            if taken is None:
                break
            self._post(follower, taken)
        if not self._follows(follower):
            return
        if follower.mismatch:
            if not follower.waits:
                self._quarantine(follower.path.name, follower.mismatch)
        elif follower.has_untold_losses and not self._housekeeper.bring_to_end(follower):
            self._look()

    def _follows(self, follower: Follower) -> bool:
        return self._followers.get(follower.path.name) is follower

    def _post(self, follower: Follower, taken: Taken) -> None:
        batches, began = follower.batches(taken), self._host.monotonic()
        answers = self._store.post(batches)
        self._progress.posted(self._host.monotonic() - began, answers)
        outcomes = {batch.shard: (batch, outcome) for batch, outcome in zip(batches, answers, strict=True)}
        if follower.settle(taken, outcomes):
            return
        words = {outcome.word for _, outcome in outcomes.values()}
        if "old" in words:
            self._quarantine(follower.path.name, "the ledger has forgotten journals as old as this one")
            return
        if "stranger" in words:
            self._store.open()
            self._housekeeper.look_again()
        self._look()
        self._wait_for({shard: outcome.error for shard, (_, outcome) in outcomes.items() if outcome.error})

    def _wait_for(self, shards: Mapping[int, LedgerError]) -> None:
        """Go on without some shards until the next look."""
        self._shards_away |= shards
        for follower in self._followers.values():
            follower.wait_for(shards)

    def _quarantine(self, name: str, reason: str) -> None:
        follower = self._followers.pop(name)
        target = follower.path.with_suffix(".quarantined")
        log.error("journal file %s is set aside as %s: %s", name, target.name, reason)
        with suppress(OSError):
            self._host.rename(follower.path, target)
        follower.close()

    def _keep_house(self) -> None:
        for follower in self._housekeeper.keep(list(self._followers.values())):
            self._followers.pop(follower.path.name).close()
