"""A log that is followed is counted exactly once through every way of rotating it."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hitledger.errors import LedgerUnavailableError
from hitledger.ingest import follow as following
from hitledger.ingest.run import FileReport, Options, Run
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
from tests.logs import counts_of, ingest, log_lines, naive
from tests.processes import Running
from tests.support import wait_until

LINES = log_lines(400, urls=50).splitlines(keepends=True)


class Followed:
    """A run that follows one log in a thread, and what was written to it so far."""

    def __init__(self, settings: Settings, path: Path, store: LedgerStore) -> None:
        self.path = path
        self.store = store
        self.settings = settings
        self.reports: list[FileReport] = []
        self._over = threading.Event()
        run = Run(settings, store, Options())
        self._thread = threading.Thread(
            target=following.follow, args=(run, [path], self.reports, self._over.is_set), daemon=True
        )
        self._thread.start()

    def has(self, lines: list[bytes]) -> None:
        """Wait until exactly these lines are counted."""
        expected = naive(b"".join(lines))
        wait_until(lambda: sum(counts_of(self.store).values()) >= sum(expected.values()), seconds=60)
        assert counts_of(self.store) == expected

    def end(self) -> None:
        """End the run."""
        self._over.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the log is."""
    return tmp_path / "access.log"


@pytest.fixture
def followed(settings: Settings, store: LedgerStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Followed]:
    """A log that is followed from before it is there."""
    monkeypatch.setattr(following, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(following, "TRY_AGAIN_SECONDS", 0.01)
    found = Followed(settings, path, store)
    yield found
    found.end()


def append(path: Path, *lines: bytes) -> None:
    """Write lines at a file's end."""
    with path.open("ab") as file:
        file.write(b"".join(lines))


def test_lines_count_as_they_are_written(followed: Followed, path: Path) -> None:
    """A log may come later than the run, and a line may come in pieces."""
    append(path, *LINES[:10])
    followed.has(LINES[:10])
    append(path, LINES[10][:40])
    append(path, LINES[10][40:], *LINES[11:20])
    followed.has(LINES[:20])


def test_a_renamed_log_is_read_on_beside_the_new_one(followed: Followed, path: Path) -> None:
    """Rotation by rename: servers write to the old file for a while; both count, and packing it changes nothing."""
    append(path, *LINES[:10])
    followed.has(LINES[:10])
    with path.open("ab", buffering=0) as server:
        path.rename(path.with_suffix(".log.1"))
        server.write(b"".join(LINES[10:20]))
        append(path, *LINES[20:30])
        followed.has(LINES[:30])
        server.write(b"".join(LINES[30:40]))
        followed.has(LINES[:40])
    rotated = path.with_suffix(".log.1")
    path.with_suffix(".log.1.gz").write_bytes(gzip.compress(rotated.read_bytes()))
    rotated.unlink()
    append(path, *LINES[40:50])
    followed.has(LINES[:50])


def test_a_log_that_is_copied_and_truncated_is_finished_from_its_copy(followed: Followed, path: Path) -> None:
    """What was written after the last look and before the copy is in the copy only, and counts from there."""
    append(path, *LINES[:50])
    followed.has(LINES[:50])
    written = LINES[:50]
    for turn in range(3):
        new = LINES[100 * turn + 60 : 100 * turn + 100]
        copy = path.with_name(f"access.log.{turn}")
        # Nobody looks between these: what they see is the log after all of it.
        whole = path.read_bytes() + b"".join(new[:20])
        copy.write_bytes(whole)
        temporary = path.with_name("other")
        temporary.write_bytes(b"")
        os.truncate(path, 0)
        append(path, *new[20:])
        written = written + new
        followed.has(written)


def test_a_truncated_log_that_outgrew_what_it_was_is_noticed(followed: Followed, path: Path) -> None:
    """A log that is longer than before at the next look is still known to be another."""
    append(path, *LINES[:5])
    followed.has(LINES[:5])
    shutil.copy(path, path.with_name("access.log.1"))
    with path.open("r+b") as file:
        file.write(b"".join(LINES[100:200]))
    followed.has(LINES[:5] + LINES[100:200])


def test_what_was_rotated_while_nobody_looked_is_finished(
    followed: Followed, path: Path, settings: Settings, store: LedgerStore
) -> None:
    """A run that starts after a rotation books the rest of a log that was begun before it."""
    followed.end()
    append(path, *LINES[:10])
    ingest(settings, store, path)
    append(path, *LINES[10:20])
    path.rename(path.with_name("access.log-20261124"))
    append(path, *LINES[20:30])
    again = Followed(settings, path, store)
    again.has(LINES[:30])
    again.end()


def test_a_ledger_that_is_away_is_waited_for(
    settings: Settings, store: LedgerStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors of the ledger end nothing, and leave nothing out or counted twice."""
    monkeypatch.setattr(following, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(following, "TRY_AGAIN_SECONDS", 0.01)
    post, calls = store.post, iter(range(10_000))

    def failing(batches: list[object]) -> object:
        number = next(calls) % 5
        if number == 0:
            raise LedgerUnavailableError("away")
        found = post(batches)  # type: ignore[arg-type]
        if number in (1, 4):
            raise LedgerUnavailableError("away, but it was carried out")
        return found

    monkeypatch.setattr(store, "post", failing)
    append(path, *LINES[:10])
    followed = Followed(settings, path, store)
    followed.has(LINES[:10])
    append(path, *LINES[10:20])
    followed.has(LINES[:20])
    followed.end()


@pytest.mark.slow
def test_the_command_follows_until_it_is_told_to_end(settings: Settings, store: LedgerStore, path: Path) -> None:
    """SIGTERM is the ordinary end: exit status 0 and a summary; killed instead, the next run goes on."""
    append(path, *LINES[:10])
    environment = {
        "HITLEDGER_REDIS_URL": str(settings.redis_url),
        "HITLEDGER_KEY_PREFIX": settings.key_prefix,
        "HITLEDGER_DATA_DIR": str(settings.data_dir),
    }
    command = [sys.executable, "-m", "hitledger", "ingest", "--follow", "--json", str(path)]
    with Running(command, environment) as program:
        wait_until(lambda: sum(counts_of(store).values()) >= 1, seconds=60)
        append(path, *LINES[10:20])
        wait_until(lambda: counts_of(store) == naive(b"".join(LINES[:20])), seconds=60)
        program.end(signal.SIGKILL)
    append(path, *LINES[20:30])
    with Running(command, environment) as program:
        wait_until(lambda: counts_of(store) == naive(b"".join(LINES[:30])), seconds=60)
        assert program.end(signal.SIGTERM) == 0
        assert json.loads(program.output())["lines"] == 10
