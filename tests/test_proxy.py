"""The proxy of the tests: what it says it does to a server's traffic, it does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.proxy import Proxy, end_of
from tests.support import Valkey, wait_until


@pytest.fixture
def proxy(valkey: Valkey) -> Iterator[Proxy]:
    """A proxy before the session's server."""
    with valkey.proxy() as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[redis.Redis]:
    """A client behind it that tries nothing twice."""
    with proxy.client() as client:
        client.delete("through-proxy")
        yield client


def test_everything_passes(client: redis.Redis) -> None:
    """Without a fault, pipelines and long values come through whole and in order."""
    pipeline = client.pipeline()
    pipeline.set("through-proxy", b"\r\n$5\r\n" * 100_000)
    pipeline.get("through-proxy")
    pipeline.lrange("through-proxy", 0, 1)
    done, value, error = pipeline.execute(raise_on_error=False)
    assert done is True
    assert value == b"\r\n$5\r\n" * 100_000
    assert isinstance(error, redis.ResponseError)


def test_a_lost_reply_comes_after_the_command_ran(client: redis.Redis, proxy: Proxy, valkey: Valkey) -> None:
    """The command takes effect once, the client sees a broken connection, and the next one passes."""
    for number, fault in enumerate((proxy.lose_replies, proxy.tear_replies), 1):
        fault("INCRBY", times=1)
        with pytest.raises(redis.ConnectionError):
            client.incr("through-proxy")
        assert valkey.client.get("through-proxy") == str(number)
    assert client.incr("through-proxy") == 3


def test_a_torn_command_never_runs(client: redis.Redis, proxy: Proxy, valkey: Valkey) -> None:
    """Half a command has no effect, and the client sees a broken connection."""
    proxy.tear_commands("INCRBY", times=1)
    with pytest.raises(redis.ConnectionError):
        client.incr("through-proxy")
    assert valkey.client.get("through-proxy") is None


def test_errors_stand_in_their_place(client: redis.Redis, proxy: Proxy) -> None:
    """An error reply to some commands of a pipeline stands where their answers would."""
    proxy.answer("OOM command not allowed", "INCRBY")
    pipeline = client.pipeline(transaction=False)
    pipeline.set("through-proxy", 7)
    pipeline.incr("through-proxy")
    pipeline.get("through-proxy")
    done, error, value = pipeline.execute(raise_on_error=False)
    assert (done, value) == (True, b"7")
    assert isinstance(error, redis.exceptions.OutOfMemoryError)
    proxy.heal()
    assert client.incr("through-proxy") == 8


def test_what_is_held_arrives_late(proxy: Proxy, valkey: Valkey) -> None:
    """A command whose sender has given up runs all the same once the network is back."""
    with proxy.client() as client:
        client.delete("through-proxy")
        connection = client.connection_pool.get_connection()
        proxy.hold()
        connection.send_command("INCR", "through-proxy")
        assert not connection.can_read(timeout=0.05)
        connection.disconnect()
    assert valkey.client.get("through-proxy") is None
    proxy.heal()
    wait_until(lambda: valkey.client.get("through-proxy") == "1")


def test_refused_connections(client: redis.Redis, proxy: Proxy) -> None:
    """Refusing breaks what is there and what comes, until it is healed."""
    proxy.refuse()
    for _ in range(2):
        with pytest.raises(redis.ConnectionError):
            client.ping()
    proxy.heal()
    assert client.ping()


@pytest.mark.parametrize(
    ("value", "end"),
    [
        (b"+OK\r\n:1\r\n", 5),
        (b"*2\r\n$1\r\na\r\n*-1\r\n+more", 16),
        (b"*2\r\n$1\r\na\r\n", -1),
        (b"$-1\r\n", 5),
        (b"$3\r\nab", -1),
    ],
)
def test_values_end_where_they_end(value: bytes, end: int) -> None:
    """A value is cut out of the stream exactly, and only when all of it is there."""
    assert end_of(value) == end
