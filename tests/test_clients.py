"""clients: a server that hangs holds up one reader at a time, and not all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from hitledger.clients import Clients
from tests.servers import Server
from tests.support import wait_until

SOON_SECONDS = 0.1
LATE_SECONDS = 30


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that a test may stop."""
    with Server(tmp_path / "server") as server:
        yield server


@pytest.fixture
def clients(server: Server) -> Iterator[Clients]:
    """Its clients."""
    clients = Clients.of(server.url)
    yield clients
    clients.close()


def give_up_after(seconds: float, client: redis.Redis) -> None:
    """Have a client connect anew, and wait so long for each answer."""
    pool = client.connection_pool
    pool.disconnect()
    pool.reset()
    pool.connection_kwargs["socket_timeout"] = seconds


def pool_of(clients: Clients) -> Any:
    """Return the pool of the readers' connections."""
    return clients.reader.connection_pool


def test_one_reader_at_a_time_waits_for_a_server_that_hangs(server: Server, clients: Clients) -> None:
    """Once somebody has waited in vain, one reader tries it and the others are told at once; with it, all come back."""
    pool = pool_of(clients)
    clients.reader.ping()
    server.pause()
    give_up_after(SOON_SECONDS, clients.reader)
    with pytest.raises(redis.TimeoutError):
        clients.reader.ping()
    # Whoever tries it now waits until it goes on.
    give_up_after(LATE_SECONDS, clients.reader)
    with ThreadPoolExecutor(1) as threads:
        trying = threads.submit(clients.reader.ping)
        wait_until(pool._trying.locked)
        for _ in range(20):
            with pytest.raises(redis.TimeoutError, match="somebody waits for it already"):
                clients.reader.ping()
        server.resume()
        assert trying.result()
    assert [clients.reader.ping() for _ in range(3)] == [True] * 3


def test_posting_in_vain_tells_readers(server: Server, clients: Clients) -> None:
    """What the posting connection has found out, no reader has to."""
    server.pause()
    give_up_after(SOON_SECONDS, clients.poster)
    with pytest.raises(redis.TimeoutError):
        clients.poster.ping()
    assert pool_of(clients)._hang.known
    server.resume()
    give_up_after(LATE_SECONDS, clients.poster)
    assert clients.poster.ping()
    assert not pool_of(clients)._hang.known


def test_a_server_that_is_gone_is_no_hang(server: Server, clients: Clients) -> None:
    """A refused connection costs nobody time: every reader may try."""
    clients.reader.ping()
    server.kill()
    for _ in range(3):
        with pytest.raises(redis.ConnectionError):
            clients.reader.ping()
    assert not pool_of(clients)._hang.known


def test_a_fork_may_try_itself(server: Server, clients: Clients) -> None:
    """A process that is forked off while a thread of its parent's tries the server is held up by nobody."""
    server.pause()
    give_up_after(SOON_SECONDS, clients.reader)
    with pytest.raises(redis.TimeoutError):
        clients.reader.ping()
    pool = pool_of(clients)
    pool._trying.acquire()
    child = os.fork()
    if child == 0:
        try:
            clients.reader.ping()
        except redis.TimeoutError as error:
            os._exit(0 if "somebody" not in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    server.resume()
