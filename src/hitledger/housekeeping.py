"""Deleting what is posted, safely, and noticing what the ledger lost behind it.

A journal file goes only when its writer is gone, all of it is posted and confirmed durable,
it has been held for a while since, and its watermarks, read again, still stand at its end.
A stub stays in its place:

    <journal name>.closed    one line a shard: the file's last watermark

If the ledger falls back behind a stub, the file cannot be posted again: the hits between the
ledger's watermark and the stub's are known to the last one, and are booked as lost. Both the
stubs and the watermarks are forgotten after `KEEP_SECONDS`; the ledger then refuses journal
files that old which it does not know.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from hitledger.entries import Batch, Outcome, Watermark
from hitledger.errors import LedgerError
from hitledger.follower import Follower
from hitledger.host import Host
from hitledger.journal import NEW_SUFFIX, SUFFIX
from hitledger.settings import Settings

log = logging.getLogger("hitledger.posting")

CLOSED_SUFFIX = ".closed"
KEEP_SECONDS = 35 * 86_400
"""How long a closed file's stub and its watermarks are kept; no writer keeps a file over a day."""
MOST_HELD_FILES = 256
"""Each held file takes a descriptor of every process that posts: those of a crash loop must not take all."""
ROUND_SECONDS = 0.1
"""How long one round may look after files: posting waits meanwhile, and there may be thousands."""
CONFIRMED_SECONDS = 10.0
"""How long a confirmation counts: after a stall, servers may be in charge that nobody has asked."""
HEAL_SECONDS = 60.0
RETIRE_SECONDS = 3600.0


class HousekeepingLedger(Protocol):
    """What housekeeping asks of the ledger; `LedgerStore` is it."""

    def watermarks(self, journals: Sequence[str]) -> dict[str, list[Watermark | None]]:
        """Return the watermarks of journal files, one a shard."""

    def post(self, batches: Sequence[Batch]) -> list[Outcome]:
        """Book batches."""

    def confirm(self, journal: str, marks: Sequence[Watermark], replicas: int = 0) -> bool:
        """Tell whether all that is posted of a file is durable."""

    def now(self) -> float:
        """Return the time of the ledger's own clock, in seconds since 1970."""

    def retire(self, floor: str) -> int:
        """Forget watermarks of journals born before a floor."""


class Housekeeper:
    """Closes the journal files of a host that are over; used under the posting lock."""

    def __init__(self, settings: Settings, store: HousekeepingLedger, host: Host) -> None:
        self._settings = settings
        self._store = store
        self._host = host
        self._directory = settings.journal_dir
        self._healed_at = float("-inf")
        self._retired_at = float("-inf")
        self._turn = 0

    def keep(self, followers: Collection[Follower]) -> list[Follower]:
        """Confirm, hold and delete; return those whose files are gone now. Raises LedgerError."""
        finished: list[Follower] = []
        held = [each.size for each in followers if each.confirmed_at is not None]
        held_bytes, held_files = sum(held), len(held)
        # What is held must leave room below the cap for what is still to come.
        most_bytes = min(self._settings.journal_hold_bytes, self._settings.journal_cap_bytes // 2)
        until = self._host.monotonic() + ROUND_SECONDS
        for follower in self._by_turns(followers):
            self._turn += 1
            crowded = held_bytes > most_bytes or held_files > MOST_HELD_FILES
            try:
                if follower.shards and not follower.mismatch and self._close_if_over(follower, crowded=crowded):
                    held_bytes -= follower.size
                    held_files -= 1
                    finished.append(follower)
            except OSError as error:
                log.error("journal file %s cannot be closed now: %s", follower.name, error)  # noqa: TRY400
            if self._host.monotonic() >= until:
                break
        else:
            self._turn = 0
        self._heal()
        self._retire()
        return finished

    def _by_turns(self, followers: Collection[Follower]) -> Iterator[Follower]:
        """Yield each once, from the one on whose turn the last round ended."""
        if not followers:
            return
        self._turn %= len(followers)
        order = list(followers)
        yield from order[self._turn :] + order[: self._turn]

    def bring_to_end(self, follower: Follower) -> bool:
        """Move every shard's watermark to the file's end, and tell the ledger of hits lost beside it."""
        closing = follower.closing_batches()
        for batch, outcome in zip(closing, self._store.post(closing), strict=True):
            if not outcome.done:
                return False
            follower.move_mark(batch)
        return True

    def look_again(self) -> None:
        """Look for losses at the next round: the ledger may have fallen back."""
        self._healed_at = float("-inf")

    def _close_if_over(self, follower: Follower, *, crowded: bool) -> bool:
        with follower.writer_gone() as gone:
            until = self._host.monotonic() + CONFIRMED_SECONDS
            over = gone and follower.posted >= follower.size and self._is_held_enough(follower, crowded=crowded)
            return over and self._close(follower, until)

    def _is_held_enough(self, follower: Follower, *, crowded: bool) -> bool:
        """Confirm a file that is all posted, and tell whether it has been held for long enough since."""
        now = self._host.monotonic()
        # A ledger that was put back may know of fewer losses, and of no fewer hits.
        if follower.confirmed_at is None or follower.has_untold_losses:
            follower.confirmed_at = None
            if self.bring_to_end(follower) and self._confirm(follower):
                follower.confirmed_at = now
            return False
        if now - follower.confirmed_at < self._settings.journal_hold_seconds and not crowded:
            return False
        marks_now = self._store.watermarks([follower.name])[follower.name]
        if marks_now == [shard.mark for shard in follower.shards]:
            # Another server may be in charge since: it must have the file on its disk, too.
            return self._confirm(follower)
        follower.look(marks_now)
        follower.confirmed_at = None
        return False

    def _confirm(self, follower: Follower) -> bool:
        marks = [shard.mark or Watermark() for shard in follower.shards]
        return self._store.confirm(follower.name, marks, self._settings.ledger_replicas)

    def _close(self, follower: Follower, until: float) -> bool:
        """Put a stub in a file's place, if that is done in time."""
        stub = follower.path.with_suffix(CLOSED_SUFFIX)
        text = "".join(f"{shard.mark.encode()}\n" for shard in follower.shards if shard.mark)
        has_room = True
        try:
            write_durably(self._host, stub, text.encode())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            has_room = False
        if self._host.monotonic() > until:
            return False
        self._delete(follower.path)
        if not has_room:  # now there is
            write_durably(self._host, stub, text.encode())
        return True

    def _delete(self, path: Path) -> None:
        self._host.unlink(path)
        self._host.sync_directory(self._directory)

    def _heal(self) -> None:
        """Book as lost what the ledger has forgotten of files that are gone."""
        now = self._host.monotonic()
        if now - self._healed_at < HEAL_SECONDS:
            return
        closed = [path for path, _ in self._host.files(self._directory, CLOSED_SUFFIX)]
        # Whoever was killed between a file's stub and its deletion left both: what is there can be posted again.
        present = {path.stem for path, _ in self._host.files(self._directory, SUFFIX)}
        stubs = {path.stem: read_stub(self._host, path) for path in closed if path.stem not in present}
        found = self._store.watermarks(list(stubs))
        for name, ends in stubs.items():
            batches = [
                gap for shard, (end, mark) in enumerate(zip(ends, found[name], strict=False))
                if (gap := gap_batch(shard, name, end, mark))
            ]  # fmt: skip
            self._book_gaps(name, batches)
        self._healed_at = now

    def _book_gaps(self, name: str, batches: Sequence[Batch]) -> None:
        for batch, outcome in zip(batches, self._store.post(batches) if batches else [], strict=True):
            if outcome.error:
                raise outcome.error
            if outcome.word == "posted":
                lost = batch.wanted.lost - (batch.expected.lost if batch.expected else 0)
                log.error("the ledger forgot %d hits of %s, whose file is gone: booked as lost", lost, name)

    def _retire(self) -> None:
        now = self._host.monotonic()
        if now - self._retired_at < RETIRE_SECONDS:
            return
        # By the earlier of two clocks: one that ran ahead would have every host's journal refused.
        floor_seconds = max(0.0, min(self._host.now(), self._store.now()) - KEEP_SECONDS)
        floor = f"{int(floor_seconds * 1_000_000):016x}"
        self._store.retire(floor)
        for suffix in (CLOSED_SUFFIX, NEW_SUFFIX):
            for path, _ in self._host.files(self._directory, suffix):
                if path.name < floor:
                    self._host.unlink(path)
        self._retired_at = now


def gap_batch(shard: int, name: str, end: Watermark, mark: Watermark | None) -> Batch | None:
    """Return the batch that books as lost what lies between a ledger's watermark and a closed file's end."""
    if mark and (mark.offset > end.offset or (mark.offset == end.offset and mark.lost >= end.lost)):
        return None
    gap = end.hits - (mark.hits if mark else 0)
    wanted = replace(end, hits=mark.hits if mark else 0, lost=end.lost + max(0, gap))
    return Batch(shard, name, mark, wanted, {})


def read_stub(host: Host, path: Path) -> list[Watermark]:
    """Return the last watermarks of a closed file, one a shard; none where the stub cannot be read."""
    with suppress(OSError, LedgerError):
        fd = host.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return [Watermark.decode(line) for line in host.pread(fd, 2**20, 0).decode("ascii", "replace").splitlines()]
        finally:
            host.close(fd)
    return []


def write_durably(host: Host, path: Path, data: bytes) -> None:
    """Write a small file whole and durable, or not at all. Raises OSError."""
    new = path.with_name(path.name + NEW_SUFFIX)
    fd = host.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if host.write(fd, data) != len(data):
            raise OSError(errno.ENOSPC, "no room for a closed file's stub")
        host.fsync(fd)
    finally:
        host.close(fd)
    host.rename(new, path)
    host.sync_directory(path.parent)
