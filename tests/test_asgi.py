"""asgi: the twin of the WSGI middleware counts the same requests under the same URLs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from asgiref.compatibility import guarantee_single_callable
from asgiref.testing import ApplicationCommunicator

from hitledger.asgi import Application, CountHitsASGI, Message, Receive, Scope, Send
from hitledger.counting import HitCounter
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
from tests.books import counts_of


@pytest.fixture
def counter(settings: Settings) -> Iterator[HitCounter]:
    """A counter with a journal and a ledger of its own."""
    counter = HitCounter(settings, LedgerStore(settings))
    yield counter
    counter.stop()


def counts(counter: HitCounter) -> Counter[str]:
    """Return what the ledger holds by URL and by line."""
    counter.post_now()
    return Counter(counts_of(counter.store)) + Counter(counter.store.totals().lines)


def ask(app: Application, path: str, **scope: Any) -> list[Message]:
    """Send one request through an application and return what the server was handed."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    whole = {"type": "http", "method": "GET", "path": path, "headers": [], **scope}
    asyncio.run(app(whole, receive, send))  # type: ignore[arg-type]
    return sent


def answering(status: int) -> Application:
    """Return an application that answers everything with a status, in two pieces."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})

    return app


async def crashing(scope: Scope, receive: Receive, send: Send) -> None:
    """Crash before any answer."""
    del scope, receive, send
    raise RuntimeError("boom")


async def breaking(scope: Scope, receive: Receive, send: Send) -> None:
    """Crash in the middle of an answer."""
    del scope, receive
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise RuntimeError("boom")


def test_each_answer_counts_once(counter: HitCounter) -> None:
    """Whatever its status, an answered request is one hit, and streaming does not multiply it."""
    for status in (200, 500, 404, 405):
        ask(CountHitsASGI(answering(status), counter), "/a")
    assert counts(counter) == {"/a": 2, "(unmatched)": 2}


@pytest.mark.parametrize("app", [crashing, breaking])
def test_a_crash_counts_once(counter: HitCounter, app: Application) -> None:
    """An application that crashes is answered for by the server, and the request counts."""
    with pytest.raises(RuntimeError):
        ask(CountHitsASGI(app, counter), "/a")
    assert counts(counter) == {"/a": 1}


def test_the_path_is_what_was_sent(counter: HitCounter) -> None:
    """Bytes that are no UTF-8 stay apart where the server hands them over; text counts as UTF-8."""
    app = CountHitsASGI(answering(200), counter)
    ask(app, "/\ufffd", raw_path=b"/%ff")
    ask(app, "/\ufffd", raw_path=b"/%fe?a=b")
    ask(app, "/é")
    assert counts(counter) == {"/%FF": 1, "/%FE": 1, "/%C3%A9": 1}


def test_the_record_is_there_before_the_first_byte(counter: HitCounter) -> None:
    """When the server is handed the start of the response, the hit is in the journal already."""
    sizes: list[int] = []

    async def watching(message: Message) -> None:
        del message
        sizes.append(sum(path.stat().st_size for path in counter.settings.journal_dir.glob("*.journal")))

    async def receive() -> Message:
        return {}

    scope = {"type": "http", "path": "/a"}
    asyncio.run(CountHitsASGI(answering(200), counter)(scope, receive, watching))
    assert sizes[0] > 256


def test_a_websocket_counts_when_its_handshake_is_answered(counter: HitCounter) -> None:
    """Accepted or denied, a websocket is one hit; its messages are none."""

    async def socket(scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        if scope["path"] == "/denied":
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "a"})
        await send({"type": "websocket.close"})

    app = CountHitsASGI(socket, counter)
    ask(app, "/socket", type="websocket")
    ask(app, "/denied", type="websocket")
    assert counts(counter) == {"/socket": 1, "/denied": 1}


def test_lifespan_and_health_pass_through(counter: HitCounter) -> None:
    """What is no request, or is listed as uncounted, leaves no trace."""
    app = CountHitsASGI(answering(200), counter)
    assert len(ask(app, "/livez")) == 3
    assert len(ask(app, "", type="lifespan")) == 3
    assert counts(counter) == {}


def test_a_service_that_would_rather_not_serve_answers_503(settings: Settings) -> None:
    """With on_journal_failure=refuse the application's answer is held back when its hit is lost."""
    counter = HitCounter(replace(settings, on_journal_failure="refuse"), LedgerStore(settings))
    settings.data_dir.write_text("not a folder")
    for _ in range(2):  # one that fails while it is noted, one that is not begun
        start, body = ask(CountHitsASGI(answering(200), counter), "/a")
        assert start["status"] == 503
        assert b"cannot be counted" in body["body"]
    assert counter.journal.lost == 1
    settings.data_dir.unlink()
    counter.stop()


def test_a_client_that_goes_away_counts_once(counter: HitCounter) -> None:
    """A send that fails in the middle of an answer is the application's to see, and one hit."""

    async def gone(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise OSError("gone")

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    with pytest.raises(OSError, match="gone"):
        asyncio.run(CountHitsASGI(answering(200), counter)({"type": "http", "path": "/a"}, receive, gone))
    assert counts(counter) == {"/a": 1}


def test_a_cancelled_request_is_not_answered(counter: HitCounter) -> None:
    """A server that cancels a request before any answer has answered nobody, so nothing counts."""

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive, send
        await asyncio.Event().wait()

    async def cancel() -> None:
        task = asyncio.create_task(CountHitsASGI(waiting, counter)({"type": "http", "path": "/a"}, no, no))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def no(*_: Any) -> Message:
        raise AssertionError

    asyncio.run(cancel())
    assert counts(counter) == {}


async def conversing(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer whatever is asked in the way that its path says."""
    await receive()
    if scope["type"] == "lifespan":
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["path"] == "/denied":
        await send({"type": "websocket.close"})
    elif scope["path"] == "/denied-by-answer":
        await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b""})
    elif scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": (await receive())["text"]})
        await send({"type": "websocket.close"})
    else:
        status = {"/nothing": 404, "/bodiless": 204}.get(scope["path"], 200)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})


HTTP: list[Message] = [{"type": "http.request", "body": b""}]
SOCKET: list[Message] = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"}]
ANSWERED = ["http.response.start", "http.response.body", "http.response.body"]
KINDS: list[tuple[str, str, list[Message], list[str], str | None]] = [
    ("http", "/a", HTTP, ANSWERED, "/a"),
    ("http", "/bodiless", HTTP, ANSWERED, "/bodiless"),
    ("http", "/nothing", HTTP, ANSWERED, "(unmatched)"),
    ("http", "/" + "x" * 2048, HTTP, ANSWERED, "(oversized)"),
    ("http", "/livez", HTTP, ANSWERED, None),
    ("websocket", "/socket", SOCKET, ["websocket.accept", "websocket.send", "websocket.close"], "/socket"),
    ("websocket", "/denied", SOCKET[:1], ["websocket.close"], "/denied"),
    (
        "websocket", "/denied-by-answer", SOCKET[:1],
        ["websocket.http.response.start", "websocket.http.response.body"], "(unmatched)",
    ),
    (
        "lifespan", "", [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}],
        ["lifespan.startup.complete", "lifespan.shutdown.complete"], None,
    ),
]  # fmt: skip
"""Kinds of connections: path, what the server says, what the application answers, where it counts."""


async def converse(app: Application, kind: str, path: str, said: list[Message]) -> list[Message]:
    """Let asgiref drive an application, with its checks on what is sent and awaited; return its answers."""
    scope = {"type": kind, "headers": []} | ({"path": path} if path else {})
    communicator = ApplicationCommunicator(guarantee_single_callable(app), scope)
    for message in said:
        await communicator.send_input(message)
    await communicator.wait(20)
    found: list[Message] = []
    while not communicator.output_queue.empty():
        found.append(await communicator.receive_output())
    return found


@pytest.mark.parametrize(("kind", "path", "said", "answers", "counted"), KINDS)
def test_asgiref_has_no_complaint(
    counter: HitCounter, kind: str, path: str, said: list[Message], answers: list[str], counted: str | None
) -> None:
    """Whatever kind of connection, the server is handed what the application sends, message by message."""
    bare = asyncio.run(converse(conversing, kind, path, said))
    routed = CountHitsASGI(conversing, counter, route=lambda _: "/route/")
    assert asyncio.run(converse(routed, kind, path, said)) == bare
    assert [message["type"] for message in bare] == answers
    assert counts(counter) == ({counted: 1} if counted else {})


def test_asgiref_has_no_complaint_of_a_refusal(settings: Settings) -> None:
    """The answer that stands in for what cannot be counted is whole, and the application's is not heard."""
    counter = HitCounter(replace(settings, on_journal_failure="refuse"), LedgerStore(settings))
    settings.data_dir.write_text("not a folder")
    for _ in range(2):  # one that fails while it is noted, one that is not begun
        start, body = asyncio.run(converse(CountHitsASGI(conversing, counter), "http", "/a", HTTP))
        assert (start["type"], start["status"], body["type"]) == ("http.response.start", 503, "http.response.body")
        assert all(name == name.lower() and isinstance(value, bytes) for name, value in start["headers"])
        assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()
    settings.data_dir.unlink()
    counter.stop()


def test_a_websocket_is_served_where_it_cannot_be_counted(settings: Settings) -> None:
    """With on_journal_failure=refuse, too: a handshake that cannot be counted is tallied as lost, and goes on."""
    counter = HitCounter(replace(settings, on_journal_failure="refuse"), LedgerStore(settings))
    settings.data_dir.write_text("not a folder")
    answers = asyncio.run(converse(CountHitsASGI(conversing, counter), "websocket", "/socket", SOCKET))
    assert [message["type"] for message in answers] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert counter.journal.lost == 1
    settings.data_dir.unlink()
    counter.stop()
