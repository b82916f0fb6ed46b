"""aof: no batch is posted to a server on whose append-only file a torn one may lie."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hitledger.entries import Batch, Hits, Watermark
from hitledger.errors import LedgerMismatchError
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
from tests.servers import Server, redis_binary

JOURNAL = "0006400000000000-" + "cd" * 16
HOUR = 498_000


def batch_after(before: Watermark | None, number: int) -> Batch:
    """Return a batch of 15 hits on five URLs that begins where the one before ended."""
    old = before or Watermark()
    hits = {f"/{number}/{each}": each for each in range(1, 6)}
    return Batch(0, JOURNAL, before, Watermark(old.offset + 100, old.hits + 15, number), {HOUR: Hits(hits)})


@contextmanager
def ledger_on(server: Server) -> Iterator[LedgerStore]:
    """Open the ledger that a server keeps."""
    store = LedgerStore(Settings(redis_url=server.url, data_dir=server.folder, retention_hours=0))
    yield store
    store.close()


def test_a_server_that_cuts_whole_batches_is_not_asked(tmp_path: Path) -> None:
    """Valkey of today leaves nothing torn behind: no rewrite is asked for."""
    with Server(tmp_path / "valkey") as server, ledger_on(server) as store:
        assert store.post([batch_after(None, 1)])[0].word == "posted"
        assert server.info("aof_rewrites") == 0


@pytest.mark.slow
def test_the_file_is_rewritten_once_after_each_start(tmp_path: Path) -> None:
    """The first poster after a start of Redis has its file rewritten before its first batch; others need not."""
    with Server(tmp_path / "redis", binary=redis_binary()) as server:
        for expected in (None, batch_after(None, 1).wanted):
            for _ in range(2):
                with ledger_on(server) as store:
                    store.post([batch_after(expected, 2 if expected else 1)])
                assert server.info("aof_rewrites") == 1
            server.kill()
            server.start()


@pytest.mark.slow
def test_a_server_that_refuses_torn_files_is_not_asked(tmp_path: Path) -> None:
    """With aof-load-truncated no, Redis does not start on a torn file: no rewrite is needed."""
    with Server(tmp_path / "redis", "--aof-load-truncated", "no", binary=redis_binary()) as server:
        with ledger_on(server) as store:
            assert store.post([batch_after(None, 1)])[0].word == "posted"
        assert server.info("aof_rewrites") == 0


@pytest.mark.slow
def test_a_server_that_cannot_be_made_safe_is_refused(tmp_path: Path) -> None:
    """Where this user may not have the file rewritten, nothing is posted, and the remedy is told."""
    with Server(tmp_path / "redis", binary=redis_binary()) as server:
        server.ask("ACL SETUSER", "worker", "on", ">sesame", "~*", "&*", "+@all", "-bgrewriteaof", "-config")
        url = f"redis://worker:sesame@127.0.0.1:{server.port}"
        store = LedgerStore(Settings(redis_url=url, data_dir=tmp_path))
        with pytest.raises(LedgerMismatchError, match=r"double counts .* BGREWRITEAOF, or set aof-load-truncated"):
            store.open()
        server.ask("BGREWRITEAOF")
        store.open()
        store.close()


@pytest.mark.slow
def test_a_torn_batch_stays_out_for_good(tmp_path: Path) -> None:
    """Wherever a crash tears the last batch off: after that restart, more batches and another restart, all is exact."""
    first = batch_after(None, 1)
    second = batch_after(first.wanted, 2)
    third = batch_after(second.wanted, 3)
    with Server(tmp_path / "redis", binary=redis_binary()) as server:
        with ledger_on(server) as store:
            store.post([first])
            store.post([second])
        server.kill()
    (file,) = (tmp_path / "redis").glob("appendonlydir/*.incr.aof")
    whole = file.read_bytes()
    begin = whole.rindex(b"$5\r\nMULTI\r\n") - 4
    for cut in range(begin + 7, len(whole), max(1, (len(whole) - begin) // 9)):
        folder = tmp_path / f"cut-{cut}"
        shutil.copytree(tmp_path / "redis", folder)
        (folder / "appendonlydir" / file.name).write_bytes(whole[:cut])
        with Server(folder, binary=redis_binary()) as server:
            with ledger_on(server) as store:
                assert [store.post([batch])[0].word for batch in (second, third)] == ["posted", "posted"]
            server.kill()
            server.start()
            with ledger_on(server) as store:
                assert store.watermarks([JOURNAL]) == {JOURNAL: [third.wanted]}
                assert store.totals().requests == store.sum_of(0, store.set_key(0), 100) == 45


@pytest.mark.slow
def test_scripts_survive_a_restart_with_a_locked_default_user(tmp_path: Path) -> None:
    """`default` locked as the doctor says, nobody can log in as it, and Redis still reads every batch back."""
    (tmp_path / "users.acl").touch()
    with Server(tmp_path / "redis", "--aclfile", str(tmp_path / "users.acl"), binary=redis_binary()) as server:
        server.kill()
        worker = "user worker on >sesame ~* &* +@all"
        (tmp_path / "users.acl").write_text(f"user default on resetpass ~* &* +@all\n{worker}\n")
        server.start()
        settings = Settings(redis_url=f"redis://worker:sesame@127.0.0.1:{server.port}", data_dir=tmp_path)
        store = LedgerStore(settings)
        store.post([batch_after(None, 1)])
        server.kill()
        server.start()
        assert store.totals().requests == 15
        store.close()
