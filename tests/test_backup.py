"""A backup of the ledger, taken while it is counted, and restored as docs/operations.md says: the books add up."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hitledger.audit import audit
from hitledger.settings import Settings
from tests.books import Books
from tests.guarded import start_valkey
from tests.support import Valkey, wait_until

Copy = Callable[[Valkey, Path], None]


def copy_aof(server: Valkey, backup: Path) -> None:
    """Copy the append-only files of a server that goes on, with no rewrite between."""
    server.client.config_set("auto-aof-rewrite-percentage", 0)
    wait_until(lambda: not server.client.info("persistence")["aof_rewrite_in_progress"])
    shutil.copytree(server.directory / "appendonlydir", backup / "appendonlydir")
    server.client.config_set("auto-aof-rewrite-percentage", 100)


def copy_rdb(server: Valkey, backup: Path) -> None:
    """Copy a snapshot that a server has made in the background."""
    before = server.client.lastsave()
    server.client.bgsave()
    wait_until(lambda: server.client.info("persistence")["rdb_bgsave_in_progress"] == 0)
    assert server.client.lastsave() >= before
    shutil.copy(server.directory / "dump.rdb", backup / "dump.rdb")


def start_from_aof(backup: Path, directory: Path) -> Valkey:
    """Start a server on copied append-only files."""
    shutil.copytree(backup / "appendonlydir", directory / "appendonlydir")
    return start_valkey(directory)


def start_from_rdb(backup: Path, directory: Path) -> Valkey:
    """Start a server on a snapshot; with appendonly on it would start empty, so that comes second."""
    shutil.copy(backup / "dump.rdb", directory / "dump.rdb")
    loading = start_valkey(directory, "--appendonly", "no")
    loading.client.config_set("appendonly", "yes")
    wait_until(lambda: loading.client.info("persistence")["aof_rewrite_in_progress"] == 0)
    wait_until(lambda: loading.client.info("persistence")["aof_last_bgrewrite_status"] == "ok")
    loading.stop()
    return start_valkey(directory)


@pytest.fixture
def folders(short_path: Path) -> tuple[Path, Path, Path]:
    """Folders for the server, its backup, and the server that is made of it."""
    found = (short_path / "old", short_path / "backup", short_path / "new")
    for each in found:
        each.mkdir()
    return found


@pytest.mark.parametrize(
    ("copy", "start"), [(copy_aof, start_from_aof), (copy_rdb, start_from_rdb)], ids=["AOF", "RDB"]
)
def test_a_restored_ledger_is_brought_forward(
    folders: tuple[Path, Path, Path],
    tmp_path: Path,
    copy: Copy,
    start: Callable[[Path, Path], Valkey],
) -> None:
    """What came after the backup is posted again from held journal files, exactly, and the audit is clean."""
    old, backup, new = folders
    server = start_valkey(old)
    settings = Settings(redis_url=server.url, data_dir=tmp_path / "data", key_prefix="test-backup")
    books = Books(settings)
    books.note(*[b"/api/before"] * 30)
    books.poster.post_now()
    copy(server, backup)
    books.note(*[b"/api/after"] * 12, b"/api/before")
    books.poster.post_now()
    books.close()
    server.kill()

    restored = start(backup, new)
    books = Books(replace(settings, redis_url=restored.url))
    assert books.counts() == {"/api/before": 30}
    books.note(b"/api/since")
    books.poster.post_now()
    assert books.counts() == {"/api/before": 31, "/api/after": 12, "/api/since": 1}
    found = audit(books.settings, books.store)
    assert found.differences == []
    books.close()
    restored.stop()
