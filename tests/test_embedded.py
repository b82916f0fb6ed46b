"""The embedded Valkey: the wheel's real server, on the files that are shipped."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from hitledger.embedded import EmbeddedValkey, is_short_and_plain, with_ledger
from hitledger.errors import ServiceError
from hitledger.settings import Settings
from tests.support import wait_until

Start = Callable[[Path], tuple[subprocess.Popen[bytes], redis.Redis]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Start]:
    """Start the embedded Valkey of a data folder, as often as wanted."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    started: list[tuple[subprocess.Popen[bytes], EmbeddedValkey]] = []

    def run(data_dir: Path) -> tuple[subprocess.Popen[bytes], redis.Redis]:
        valkey = EmbeddedValkey(data_dir)
        valkey.prepare()
        process = subprocess.Popen(valkey.command, cwd=valkey.directory)
        started.append((process, valkey))
        wait_until(valkey.answers)
        return process, redis.Redis.from_url(valkey.url, decode_responses=True)

    yield run
    for process, valkey in started:
        process.kill()
        process.wait()
        with suppress(OSError):
            socket_folder = valkey.socket_path.parent
            if not socket_folder.is_relative_to(tmp_path):
                shutil.rmtree(socket_folder)


def test_counts_outlive_a_kill(start: Start, short_path: Path) -> None:
    """What the server has acknowledged is there again after SIGKILL, beside a stale socket."""
    server, client = start(short_path)
    with client:
        client.incrby("hits", 17)
    server.kill()
    server.wait()
    assert (short_path / "valkey" / "valkey.sock").is_socket()
    _, client = start(short_path)
    with client:
        assert client.get("hits") == "17"


def test_it_is_durable_and_private(start: Start, short_path: Path) -> None:
    """Every write is synced, nothing is evicted, no port is open, and nobody else may enter."""
    _, client = start(short_path)
    with client:
        found = client.config_get("append*", "maxmemory-policy", "port", "save", "unixsocketperm")
    assert found["appendonly"] == "yes"
    assert found["appendfsync"] == "always"
    assert found["maxmemory-policy"] == "noeviction"
    assert found["port"] == "0"
    assert found["save"] == ""
    assert found["unixsocketperm"] == "600"
    assert stat.S_IMODE((short_path / "valkey").stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["x" * 120, "a folder with 100 % spaces & #marks?"])
def test_any_data_folder_will_do(start: Start, tmp_path: Path, name: str) -> None:
    """A data folder may have a path too long, or too odd, for a socket: the socket is then elsewhere."""
    data_dir = tmp_path / name
    valkey = EmbeddedValkey(data_dir)
    server, client = start(data_dir)
    with client:
        client.incr("hits")
    assert is_short_and_plain(valkey.socket_path)
    assert stat.S_IMODE(valkey.socket_path.parent.stat().st_mode) == 0o700
    server.kill()
    server.wait()
    shutil.rmtree(valkey.socket_path.parent)  # as a reboot empties /tmp
    _, client = start(data_dir)
    with client:
        assert client.get("hits") == "1"


def test_a_folder_that_others_may_enter_is_not_used(start: Start, tmp_path: Path) -> None:
    """A socket's folder elsewhere is used again only while nobody else may enter it."""
    data_dir = tmp_path / ("x" * 120)
    valkey = EmbeddedValkey(data_dir)
    start(data_dir)[0].kill()
    first = valkey.socket_path.parent
    valkey.prepare()
    assert valkey.socket_path.parent == first
    first.chmod(0o777)
    valkey.prepare()
    assert valkey.socket_path.parent != first
    shutil.rmtree(first)


def test_a_command_finds_the_running_ledger(start: Start, short_path: Path) -> None:
    """Settings without a ledger get the embedded one while it runs, and otherwise a clear error."""
    settings = Settings(data_dir=short_path)
    with pytest.raises(ServiceError, match="no service runs on"):
        with_ledger(settings)
    start(short_path)
    assert with_ledger(settings).redis_url == f"unix://{short_path}/valkey/valkey.sock"
    elsewhere = Settings(data_dir=short_path, redis_url="redis://elsewhere")
    assert with_ledger(elsewhere) is elsewhere


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """A data folder that cannot be used is named, with what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(ServiceError, match="HITLEDGER_DATA_DIR") as caught:
        EmbeddedValkey(tmp_path / "file").prepare()
    assert os.fsdecode(tmp_path) in str(caught.value)
