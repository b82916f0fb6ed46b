"""/audit/: the audit over HTTP, one at a time on a host, for as long as somebody waits for it."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from hitledger.auditor import audit_apart
from hitledger.cli import commands
from hitledger.errors import LedgerError
from hitledger.settings import Settings
from hitledger.web import create_app
from tests.books import Books
from tests.support import Clients


def json_of(answer: TestResponse) -> Any:
    """Return an answer's JSON."""
    return json.loads(answer.get_data())


@pytest.fixture
def books(settings: Settings) -> Books:
    """Three hits posted."""
    books = Books(settings)
    books.note(b"/a", b"/a", b"/b")
    books.poster.post_now()
    return books


def test_it_says_what_the_command_says(books: Books, clients: Clients) -> None:
    """Sound books are in balance, hit by hit; a count that was changed by hand is named."""
    client = clients(posting_interval_ms=60_000)
    answer = client.get("/audit/")
    report = json_of(answer)
    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    assert report["ledger"] == books.store.identity.id
    balance = report["balance"]
    # That of the request itself may be journalled before the file is read.
    assert balance == {
        "received": 3 + balance["pending"],
        "posted": 3,
        "pending": balance["pending"],
        "refused": 0,
        "lost": 0,
    }
    assert report["differences"] == []
    assert books.files()[0].stem in [each["journal"] for each in report["journals"]]
    books.store.reader(0).zincrby(books.store.set_key(0), 2, "/a")
    (difference,) = json_of(client.get("/audit/"))["differences"]
    assert difference.startswith("shard 0: ")
    assert difference.endswith("+2")


def test_a_host_makes_one_audit_at_a_time(books: Books, clients: Clients) -> None:
    """Who asks while one is under way is told to come again, and is answered once it has ended."""
    client = clients()
    with audit_apart(books.settings) as wait:
        assert wait is not None
        answer = client.get("/audit/")
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "10"
        assert "already" in json_of(answer)["detail"]
    assert client.get("/audit/").status_code == 200


def test_an_audit_ends_with_whoever_asked_for_it(books: Books) -> None:
    """One that nobody waits for any more is broken off and makes room; the next one is whole."""
    with audit_apart(books.settings) as wait:
        assert wait
        assert wait(0) is None
    with audit_apart(books.settings) as wait:
        assert wait
        report = wait(60)
    assert report
    assert report["balance"]["posted"] == 3


def test_an_answer_that_takes_long_begins_with_blanks(
    books: Books, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the audit is made the connection is kept busy, and the whole is JSON all the same."""
    for name in ("FIRST_SECONDS", "BLANK_SECONDS"):
        monkeypatch.setattr(f"hitledger.web.audits.{name}", 0.01)
    body = clients().get("/audit/").get_data(as_text=True)
    assert body.startswith("  ")
    assert json.loads(body)["ledger"] == books.store.identity.id


def test_a_ledger_that_is_away_is_no_audit(settings: Settings, clients: Clients) -> None:
    """Nothing can be proved then: 503, which tells nothing of where the ledger is; the host's next one can begin."""
    away = replace(settings, redis_url="redis://sesame:sesame@127.0.0.1:1")
    client = clients(redis_url=away.redis_url)
    for _ in range(2):
        answer = client.get("/audit/")
        assert answer.status_code == 503
        assert "sesame" not in answer.get_data(as_text=True)
        assert json_of(answer)["detail"].startswith("The ledger cannot be read now.")
    with audit_apart(away) as wait:
        assert wait
        with pytest.raises(LedgerError):
            wait(60)


def test_parameters_and_heads(clients: Clients) -> None:
    """It takes no parameter; whoever asks for its head alone has nothing audited."""
    client: FlaskClient = clients()
    answer = client.get("/audit/?deep=1")
    assert (answer.status_code, json_of(answer)["parameter"]) == (422, "deep")
    assert client.head("/audit/").status_code == 200


def test_the_command_asks_a_service(books: Books, token: str | None) -> None:
    """`hitledger audit --url` prints the same, and ends the same way, as beside the ledger."""
    app = create_app(replace(books.settings, posting_interval_ms=60_000))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    runner = CliRunner(env={"HITLEDGER_TOKEN": token})
    words = ("audit", "--url", f"http://127.0.0.1:{server.server_port}")
    try:
        result = runner.invoke(commands, words, standalone_mode=False)
        assert result.return_value == 0, result.output
        assert "In balance" in result.output
        books.store.reader(0).zincrby(books.store.set_key(0), 2, "/a")
        result = runner.invoke(commands, words, standalone_mode=False)
        assert result.return_value == 1
        assert "DIFFERENCE shard 0" in result.output
        result = runner.invoke(commands, [*words, "--json"], standalone_mode=False)
        assert json.loads(result.stdout)["balance"]["posted"] == 3
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        app.extensions["hitledger"].counter.stop()
