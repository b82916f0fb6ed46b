"""`hitledger stats` and `export`: the same beside the ledger and over HTTP, and after a break."""

from __future__ import annotations

import json
import re
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from werkzeug.serving import make_server

from hitledger.cli import commands
from hitledger.cli.export import Written
from hitledger.errors import HitledgerError, QueryError, ServiceError
from hitledger.journal import PATH
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
from hitledger.web import create_app
from tests.books import Books
from tests.credentials import api_key

pytestmark = pytest.mark.usefixtures("one_hour")
EXPORTED = ['{"url":"/a/1","requests":2}', '{"url":"/a/2","requests":1}']
PATHS = {b"/a/%d" % number: number for number in range(1, 12)} | {b'/a/quoted",x': 12, b"/b": 3}
ROUTES = {b"/a/5": b'/a/<any("5",6):x>', b"/a/6": b'/a/<any("5",6):x>', b"/a/7": b"/a/<seven>/", b"/b": b"/<b>"}


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """Serve a WSGI application over HTTP; yields the address."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """Serve a ledger over HTTP; yields the address."""
    app = create_app(settings)
    try:
        with listening(app) as url:
            yield url
    finally:
        app.extensions["hitledger"].counter.stop()


@pytest.fixture(params=["ledger", "service"])
def place(
    request: pytest.FixtureRequest, settings: Settings, token: str | None
) -> Iterator[tuple[Settings, list[str]]]:
    """Settings with a filled ledger, and the words that lead a command there."""
    books = Books(settings)
    for path, hits in PATHS.items():
        assert books.journal.append(PATH, path, hits, ROUTES.get(path, b""))
    books.poster.post_now()
    books.close()
    if request.param == "ledger":
        yield settings, []
        return
    with serving(settings) as url:
        yield replace(settings, token=token), ["--url", url]


def run(place: tuple[Settings, list[str]], *words: str, **more: str) -> Result:
    """Run a command there, with more variables of the environment."""
    settings, where = place
    environment: dict[str, str | None] = {
        "HITLEDGER_REDIS_URL": settings.redis_url,
        "HITLEDGER_DATA_DIR": str(settings.data_dir),
        "HITLEDGER_KEY_PREFIX": settings.key_prefix,
        "HITLEDGER_TOKEN": settings.token,
        **more,
    }
    return CliRunner(env=environment).invoke(commands, [words[0], *where, *words[1:]], standalone_mode=False)


def test_stats_are_the_same(place: tuple[Settings, list[str]]) -> None:
    """A page and the one behind it, as a table and as JSON, wherever they come from."""
    first = json.loads(run(place, "stats", "--limit", "3", "--json").stdout)
    assert [row["requests"] for row in first["urls"]] == [12, 11, 10]
    second = json.loads(run(place, "stats", "--limit", "3", "--cursor", first["next"], "--json").stdout)
    assert [row["requests"] for row in second["urls"]] == [9, 8, 7]
    text = run(place, "stats", "--limit", "3").stdout
    assert "/a/11" in text
    assert f"{' '.join(place[1])} --cursor" in text


def test_stats_of_a_time_and_by_section(place: tuple[Settings, list[str]]) -> None:
    """Options choose rows as the parameters of `/stats/` do, in the page behind too; sections have their numbers."""
    found = json.loads(run(place, "stats", "--period", "day", "--group", "1", "--json").stdout)
    assert {"section": "/a/", "requests": 78, "urls": 12} in found["sections"]
    text = run(place, "stats", "--under", "/").stdout
    assert ["78", "12", "/a/"] in [line.split() for line in text.splitlines()]
    text = run(place, "stats", "--prefix", "/a/", "--limit", "2").stdout
    assert re.search(r"\n78 of [0-9]+ requests to", text)
    assert f"More: hitledger stats {shlex.join(['--prefix', '/a/', *place[1]])} --cursor" in text


def test_stats_by_route(place: tuple[Settings, list[str]]) -> None:
    """Routes in order, page by page, as a table, as JSON and as a file; what has none is there, and all adds up."""
    words = ["stats", "--group", "route", "--limit", "2"]
    first = json.loads(run(place, *words, "--json").stdout)
    assert first["routes"] == [
        {"route": '/a/<any("5",6):x>', "requests": 11},
        {"route": "/a/<seven>/", "requests": 7},
    ]
    assert first["total_requests"] == 21 + first["other"]["(no route)"]
    second = json.loads(run(place, *words, "--cursor", first["next"], "--json").stdout)
    assert (second["routes"], second["next"]) == ([{"route": "/<b>", "requests": 3}], None)
    text = run(place, *words).stdout
    assert [line.split()[:2] for line in text.splitlines()[2:4]] == [["11", '/a/<any("5",6):x>'], ["7", "/a/<seven>/"]]
    assert "(no route)" in text
    assert f"More: hitledger stats {shlex.join(['--group', 'route', *place[1]])} --cursor" in text
    refused = run(place, "stats", "--group", "route", "--prefix", "/a/").exception
    assert isinstance(refused, QueryError)
    exported = run(place, "export", "--group", "route").stdout.splitlines()
    rows = [json.loads(line) for line in exported]
    assert [row for row in rows if row["route"] != "(no route)"] == first["routes"] + second["routes"]
    assert sum(row["requests"] for row in rows) >= first["total_requests"]


@pytest.mark.slow
@pytest.mark.parametrize("order", [[], ["--unordered"]])
@pytest.mark.parametrize("kind", ["ndjson", "csv"])
@pytest.mark.parametrize("rows", [[], ["--under", "/"], ["--prefix", "/a/"], ["--group", "route"]])
def test_an_export_goes_on_where_it_broke_off(
    place: tuple[Settings, list[str]], tmp_path: Path, kind: str, order: list[str], rows: list[str]
) -> None:
    """Cut anywhere, in a row or between two, `--resume` makes the file what it would have been."""
    target = tmp_path / "out"
    words = ["export", "--format", kind, *order, *rows, "--output", str(target)]
    assert run(place, *words).exception is None
    whole = target.read_bytes()
    assert whole.count(b"\n") >= 2
    for cut in (0, 5, whole.index(b"\n") + 1, len(whole) // 2, len(whole) - 3, len(whole)):
        target.write_bytes(whole[:cut])
        result = run(place, *words, "--resume")
        assert result.exception is None
        # The service counts that it was asked, under no route.
        found, expected = (
            [line for line in text.splitlines() if b"/stats/" not in line and b"(no route)" not in line]
            for text in (target.read_bytes(), whole)
        )
        assert found == expected


def test_resuming_what_is_no_export_changes_nothing(place: tuple[Settings, list[str]], tmp_path: Path) -> None:
    """Another file, no file, or a format that cannot go on, is wrong usage."""
    other = tmp_path / "notes.txt"
    other.write_text("dear diary\ntoday")
    for words in (["--output", str(other)], [], ["--output", str(other), "--format", "parquet"]):
        assert isinstance(run(place, "export", "--resume", *words).exception, click.UsageError)
    assert other.read_text() == "dear diary\ntoday"
    for content in (b"x", b"\x1f\x8b\x08", b'{"user":'):
        other.write_bytes(content)
        assert isinstance(run(place, "export", "--resume", "--output", str(other)).exception, click.UsageError)
        assert other.read_bytes() == content


@pytest.mark.parametrize("kind", ["ndjson", "csv", "parquet"])
def test_a_refused_export_leaves_the_file_alone(place: tuple[Settings, list[str]], tmp_path: Path, kind: str) -> None:
    """A time that is not kept, or a folder that is not there, changes nothing of what was exported before."""
    target = tmp_path / "out"
    target.write_text("precious")
    words = ["export", "--format", kind, "--output", str(target), "--period", "day", "--at"]
    for at in ("2001-01-01", "2999-01-01"):
        assert isinstance(run(place, *words, at).exception, HitledgerError)
    assert target.read_text() == "precious"
    assert isinstance(run(place, "export", "--output", str(tmp_path / "no" / "out")).exception, FileNotFoundError)


def test_an_export_that_ends_too_early_is_told(settings: Settings, tmp_path: Path) -> None:
    """A service whose body ends in the middle of a row, however well it ends, has not sent all."""
    target = tmp_path / "out"

    def application(environ: Any, start_response: Any) -> list[bytes]:
        del environ
        start_response("200 OK", [("Content-Type", "application/x-ndjson")])
        return [b'{"url":"/a","requests":2}\n{"error":"the export broke off']

    with listening(application) as url:
        result = run((settings, ["--url", url]), "export", "--output", str(target))
    assert isinstance(result.exception, ServiceError)
    assert "--resume" in result.exception.hint
    assert Written.of(target, "ndjson").place == (2, "/a")


def test_a_service_that_is_not_there_is_named(settings: Settings) -> None:
    """No service, or an address that is none, is one line of what to do."""
    assert isinstance(run((settings, ["--url", "http://127.0.0.1:1"]), "export").exception, ServiceError)
    assert isinstance(run((settings, ["--url", "ftp://x"]), "stats").exception, QueryError)


def test_a_key_opens_a_service_that_asks_who_you_are(settings: Settings, tmp_path: Path) -> None:
    """Stats and exports, resumed ones too, come with HITLEDGER_TOKEN, and without it or its right say why not."""
    settings = replace(settings, auth="keys", oidc_issuer=None)
    books = Books(settings)
    books.note(b"/a/1", b"/a/1", b"/a/2")
    books.poster.post_now()
    books.close()
    store, target = LedgerStore(settings), tmp_path / "out"
    key, other = api_key(store, "stats:read"), api_key(store, "test:run")
    with serving(settings) as url:
        place = settings, ["--url", url]
        page = json.loads(run(place, "stats", "--json", HITLEDGER_TOKEN=key).stdout)
        assert [(row["url"], row["requests"]) for row in page["urls"][:1]] == [("/a/1", 2)]
        assert run(place, "export", "--prefix", "/a/", HITLEDGER_TOKEN=key).stdout.splitlines() == EXPORTED
        target.write_text(f"{EXPORTED[0]}\n{EXPORTED[1][:9]}")
        words = ["export", "--prefix", "/a/", "--output", str(target)]
        assert run(place, *words, "--resume", HITLEDGER_TOKEN=key).exception is None
        assert target.read_text().splitlines() == EXPORTED
        for command in ("stats", "export"):
            for token, reason in (("", "key"), (key[:-1], "key"), (other, "stats:read")):
                refused = run(place, command, HITLEDGER_TOKEN=token)
                assert isinstance(refused.exception, ServiceError)
                assert reason in str(refused.exception)
                assert refused.stdout == ""
                assert not token or token not in str(refused.exception)


def test_a_token_goes_to_nobody_else(settings: Settings) -> None:
    """Where the address sends a command on to another one, that one does not see the token."""
    seen: list[str | None] = []

    def elsewhere(environ: dict[str, str], start_response: Any) -> list[bytes]:
        seen.append(environ.get("HTTP_AUTHORIZATION"))
        if environ["PATH_INFO"].startswith("/stats/"):
            start_response("302 Found", [("Location", "/elsewhere")])
            return [b""]
        start_response("200 OK", [("Content-Type", "application/json")])
        return [b"{}"]

    with listening(elsewhere) as url:
        for command in ("stats", "export"):
            run((settings, ["--url", url]), command, HITLEDGER_TOKEN="a-secret")
    assert seen == ["Bearer a-secret", None] * 2
