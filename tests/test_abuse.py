"""Those who ask for too much: endless URLs, idle and slow connections. Memory stays bounded, others are served."""

from __future__ import annotations

import resource
import select
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from hitledger import journal
from hitledger.audit import audit
from hitledger.paths import OVERFLOW, OVERSIZED, UNMATCHED
from hitledger.settings import Settings
from hitledger.webserver import MOST_CONNECTIONS, SPARE_DESCRIPTORS, most_connections
from tests.books import Books
from tests.storm.service import Service
from tests.support import Valkey, wait_until

CAP = 300


@pytest.fixture(params=[1, 4], ids=["one shard", "four shards"])
def books(settings: Settings, request: pytest.FixtureRequest) -> Iterator[Books]:
    """Books with a low cap on distinct URLs."""
    books = Books(replace(settings, shards=request.param, max_urls=CAP))
    yield books
    books.close()


def test_the_cap_is_exact_and_the_lines_add_up(books: Books) -> None:
    """URLs within the cap, unmatched, oversized and overflowing hits add up to what was received."""
    for number in range(2000):
        books.note(b"/api/%d" % (number * 7919 % 1000))
        books.journal.append(journal.UNMATCHED_KIND, b"")
        if number % 2:
            books.journal.append(journal.OVERSIZED_KIND, b"")
        if number % 500 == 0:
            books.poster.post_now()
    books.poster.post_now()
    totals = books.store.totals()
    in_urls = sum(books.counts().values())
    assert totals.urls == len(books.counts()) == CAP
    assert totals.lines == {UNMATCHED: 2000, OVERSIZED: 1000, OVERFLOW: 2000 - in_urls}
    assert in_urls == 2 * CAP
    assert totals.requests == 5000
    assert audit(books.settings, books.store).differences == []


def test_the_cap_costs_one_look_a_batch(books: Books, valkey: Valkey) -> None:
    """How many URLs there are is asked once a script call, not once a hit, below the cap and beyond it."""
    client = valkey.client
    books.poster.post_now()
    client.config_resetstat()
    for start in (0, 5000):
        books.note(*[b"/api/%d" % number for number in range(start, start + 5000)])
        books.poster.post_now()
    calls = client.info("commandstats")
    assert calls["cmdstat_zcard"]["calls"] <= calls["cmdstat_evalsha"]["calls"] < 200


def test_connections_leave_descriptors_for_the_journal() -> None:
    """However few descriptors there are, a worker keeps some that connections cannot take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = most_connections()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(most + SPARE_DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert 0 < most <= MOST_CONNECTIONS


def is_answered(port: int) -> bool:
    """Tell whether a new client gets its answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET /api/fine/ HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        return connection.recv(64).startswith(b"HTTP/1.1 200")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("idle", "slow"), [(2500, 50), pytest.param(10_000, 200, marks=pytest.mark.slow)], ids=["some", "very many"]
)
def test_idle_and_slow_connections_shut_nobody_out(short_path: Path, idle: int, slow: int) -> None:
    """With more idle connections than the server's backlog, and slow ones beside them, others are served."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] != resource.RLIM_INFINITY and limits[1] < idle + slow + 500:
        pytest.skip(f"no process may have more than {limits[1]} descriptors here")
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], idle + slow + 500), limits[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        service = Service(short_path, workers=1)
        stack.callback(service.close)
        for number in range(idle + slow):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", service.settings.port), timeout=20))
            if number >= idle:
                connection.sendall(b"GET /api/slow/ HTTP/1.1\r\nX-Slow: ")
        for _ in range(20):
            assert is_answered(service.settings.port)
        wait_until(lambda: service.booked() == 20)


@pytest.fixture(scope="module")
def small() -> Iterator[Service]:
    """A service with one web process."""
    with tempfile.TemporaryDirectory(prefix="hitledger-", ignore_cleanup_errors=True) as directory:
        service = Service(Path(directory), workers=1)
        yield service
        service.close()


def answer_to(port: int, *parts: bytes) -> bytes:
    """Send a request in parts and return its answer's status line; empty where the connection was just closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        # It may be answered and closed before all is sent.
        with suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
        with suppress(ConnectionError):
            return connection.recv(4096).partition(b"\r\n")[0]
    return b""


HEAD = b"GET /api/x/ HTTP/1.1\r\nHost: test\r\n"


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b"X-Long: " + b"a" * 30_000 + b"\r\n\r\n", b"200"),
        (b"X-Long: " + b"a" * 200_000 + b"\r\n\r\n", b"431"),
        (b"".join(b"X-%d: a\r\n" % number for number in range(150)) + b"\r\n", b"431"),
        (b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", b"400"),
        (b"Transfer-Encoding: gzip, chunked, identity\r\n\r\n", b"400"),
    ],
    ids=["long", "too long", "too many", "two lengths", "no length"],
)
def test_a_head_is_bounded_and_says_where_its_body_ends(small: Service, rest: bytes, status: bytes) -> None:
    """A head that is too large, or of which proxies could see two requests, is refused by the server itself."""
    assert answer_to(small.settings.port, HEAD, rest).split()[1] == status
    assert is_answered(small.settings.port)


def test_what_follows_a_body_of_two_lengths_is_no_request(small: Service) -> None:
    """With both a length and chunks, the connection ends with the answer: nothing can be smuggled behind it."""
    head = b"POST /api/x/ HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    smuggled = b"GET /api/smuggled/ HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", small.settings.port), timeout=20) as connection:
        connection.sendall(head + b"0\r\n\r\n" + smuggled)
        answers = b""
        with suppress(ConnectionResetError):  # what it had not read when it closed
            while received := connection.recv(65536):
                answers += received
    assert answers.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("head", [b"Content-Length: 268435456", b"Transfer-Encoding: chunked"])
def test_a_large_body_takes_no_memory(small: Service, head: bytes) -> None:
    """256 MB that no endpoint wants, with and without a length, leave the process as it was."""
    before = resident_bytes(small.workers()[0])
    megabyte = b"a" * 2**20
    chunk = megabyte if b"Length" in head else b"100000\r\n" + megabyte + b"\r\n"
    answer_to(small.settings.port, b"POST /test/1/ HTTP/1.1\r\nHost: test\r\n" + head + b"\r\n\r\n", *[chunk] * 256)
    assert is_answered(small.settings.port)
    assert resident_bytes(small.workers()[0]) - before < 32 * 2**20


def test_forms_that_never_come_shut_nobody_out(small: Service) -> None:
    """More heads of forms than there are threads: a quarter of them wait for the rest, and all others answer."""
    head = b"POST /runs/ HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    waiting = small.settings.threads // 4
    with ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", small.settings.port), timeout=20))
            for _ in range(3 * small.settings.threads)
        ]
        for connection in slow:
            connection.sendall(head + b"Content-Length: 1000\r\n\r\n")

        def answered() -> list[socket.socket]:
            found = select.select(slow, [], [], 0)[0]
            return found if len(found) >= len(slow) - waiting else []

        assert {connection.recv(64).split()[1] for connection in wait_until(answered)} == {b"503"}
        assert is_answered(small.settings.port)


def resident_bytes(pid: int) -> int:
    """Return how much memory a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
