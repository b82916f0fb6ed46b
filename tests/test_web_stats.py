"""/stats/: pages, one URL, exports, and the manners of HTTP."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import duckdb
import pytest
import zstandard
from flask.testing import FlaskClient
from pyarrow import parquet
from werkzeug.test import TestResponse

from hitledger.errors import LedgerUnavailableError
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
from hitledger.web import create_app
from tests.report_support import book, with_shards
from tests.support import Valkey

pytestmark = pytest.mark.usefixtures("one_hour")
COUNTS = {f"/api/{number % 7}/{number}/": 100 + number for number in range(1, 60)} | {"(unmatched)": 5}
CODINGS = ["identity", "gzip", "zstd"]
TOTAL = sum(COUNTS.values())
CSV = {"Accept": "text/csv"}
IN_ORDER = sorted(((hits, url) for url, hits in COUNTS.items() if url[0] == "/"), reverse=True)


@pytest.fixture(params=[1, 3], ids=["one shard", "three shards"])
def client(settings: Settings, request: pytest.FixtureRequest) -> Iterator[FlaskClient]:
    """A client of a service whose ledger has counts, all of this hour."""
    app = create_app(with_shards(settings, request.param))
    store: LedgerStore = app.extensions["hitledger"].store
    book(store, datetime.now(UTC), COUNTS)
    yield app.test_client()
    app.extensions["hitledger"].counter.stop()


def get(client: FlaskClient, address: str, status: int = 200, **headers: str) -> Any:
    """Return an answer's JSON."""
    answer = client.get(address, headers=headers)
    assert answer.status_code == status, answer.get_data(as_text=True)
    return json.loads(answer.get_data())


def test_pages_follow_each_other(client: FlaskClient) -> None:
    """By `next`, and by the Link header that says the same, every URL comes once, in order."""
    address: str | None = "/stats/?limit=17&prefix=/api/"
    found = []
    while address:
        answer = client.get(address)
        content = json.loads(answer.get_data())
        assert content["section"] == {"prefix": "/api/", "requests": TOTAL - 5, "urls": 59}
        found += [(row["requests"], row["url"]) for row in content["urls"]]
        address = content["next"]
        assert answer.headers.get("Link") == (f'<{address}>; rel="next"' if address else None)
    assert found == IN_ORDER


def test_sections_have_their_own_rows(client: FlaskClient) -> None:
    """A section's children come with their totals and how many URLs they have."""
    content = get(client, "/stats/?under=/api/")
    expected: dict[str, list[int]] = {}
    for hits, url in IN_ORDER:
        expected.setdefault("/".join(url.split("/")[:3]) + "/", []).append(hits)
    assert {row["section"]: (row["requests"], row["urls"]) for row in content["sections"]} == {
        section: (sum(hits), len(hits)) for section, hits in expected.items()
    }
    assert content["total_sections"] == 7


@pytest.mark.parametrize("by", ["hour", "day", "month"])
def test_one_url(client: FlaskClient, by: str) -> None:
    """Its total, its rank over all shards, and a series whose last point is now."""
    hits, url = IN_ORDER[20]
    content = get(client, f"/stats/url?url={url}&by={by}")
    assert (content["requests"], content["rank"], content["url"]) == (hits, 21, url)
    assert content["series"][-1]["requests"] == hits
    assert sum(point["requests"] for point in content["series"]) == hits


def test_one_url_that_was_never_requested(client: FlaskClient) -> None:
    """It has no rank, and its series is zeros; it may be written as people do."""
    content = get(client, "/stats/url?url=/api/%25c3%25a9?x=1")
    assert (content["url"], content["requests"], content["rank"]) == ("/api/%C3%A9", 0, None)
    assert get(client, "/stats/url?url=/api/%ff/")["url"] == "/api/%FF/"


def test_a_series_has_the_times_that_were_asked_for(client: FlaskClient) -> None:
    """From and to choose its points; what is not kept any more is a 404 that says from when there is data."""
    now = datetime.now(UTC)
    start = (now - timedelta(hours=3)).strftime("%Y-%m-%dT%H:00Z")
    content = get(client, f"/stats/url?url=/x&by=hour&from={start}")
    assert len(content["series"]) == 4
    old = (now - timedelta(days=400)).strftime("%Y-%m-%d")
    assert "hour" in get(client, f"/stats/url?url=/x&by=hour&from={old}", 404)["data_from"]
    assert get(client, "/stats/history?from=2999-01-01", 422)["parameter"] == "from"


@pytest.mark.parametrize("by", ["hour", "day", "month"])
def test_history_is_of_all_requests(client: FlaskClient, by: str) -> None:
    """Each period has what all its URLs and lines were asked for; without times, all that is kept is there."""
    content = get(client, f"/stats/history?by={by}")
    assert content["by"] == by
    assert [point["requests"] for point in content["series"] if point["requests"]] == [TOTAL]
    today = get(client, f"/stats/history?by=day&from={datetime.now(UTC):%Y-%m-%d}")
    assert len(today["series"]) == 1


def test_a_series_can_be_taken_away(client: FlaskClient) -> None:
    """As CSV or NDJSON, of all requests or of one URL: the numbers of the JSON."""
    hits, url = IN_ORDER[3]
    lines = client.get("/stats/series?by=hour").get_data(as_text=True).splitlines()
    assert lines[0] == "period,requests"
    assert lines[-1].endswith(f",{TOTAL}")
    told = get(client, f"/stats/url?url={url}&by=day")["series"]
    answer = client.get(f"/stats/series?url={url}&by=day&format=ndjson")
    assert "attachment" in answer.headers["Content-Disposition"]
    assert [json.loads(line) for line in answer.get_data(as_text=True).splitlines()] == told
    assert told[-1]["requests"] == hits


@pytest.mark.parametrize(
    ("address", "parameter"),
    [
        ("/stats/series?format=xml", "format"), ("/stats/series?limit=3", "limit"), ("/stats/series?by=week", "by"),
        ("/stats/history?by=week", "by"), ("/stats/history?url=/x", "url"),
        ("/stats/url", "url"), ("/stats/url?url=/x&by=week", "by"), ("/stats/url?url=/x&limit=3", "limit"),
        ("/stats/export?format=xml", "format"), ("/stats/export?order=up", "order"), ("/stats/export?after=x", "after"),
        ("/stats/export?limit=3", "limit"), ("/stats/export?group=0", "group"), ("/stats/?period=week", "period"),
        ("/stats/?from=yesterday", "from"), ("/stats/?tz=Mars", "tz"), ("/stats/?search=", "search"),
        ("/stats/?limit=0", "limit"), ("/stats/?limit=10001", "limit"),
        ("/stats/?group=route&prefix=/api/", "prefix"), ("/stats/export?group=route&search=a", "search"),
    ],
)  # fmt: skip
def test_a_bad_parameter_is_named(client: FlaskClient, address: str, parameter: str) -> None:
    """Wrong values and unknown names are a 422 that says which."""
    assert get(client, address, 422)["parameter"] == parameter


def decoded(answer: TestResponse) -> bytes:
    """Return an answer's body as it was before its content coding."""
    data, coding = answer.get_data(), answer.headers.get("Content-Encoding")
    if coding == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return gzip.decompress(data) if coding == "gzip" else data


@pytest.mark.parametrize("order", ["requests", "none"])
@pytest.mark.parametrize("coding", CODINGS)
def test_an_export_has_every_row(client: FlaskClient, order: str, coding: str) -> None:
    """As NDJSON, in order or not, compressed or not."""
    answer = client.get(f"/stats/export?order={order}", headers={"Accept-Encoding": coding})
    assert answer.headers.get("Content-Encoding", "identity") == coding
    rows = [json.loads(line) for line in decoded(answer).decode().splitlines()]
    found = [(row["requests"], row["url"]) for row in rows]
    assert (found if order == "requests" else sorted(found, reverse=True)) == IN_ORDER


@pytest.mark.parametrize("kind", ["ndjson", "csv", "parquet"])
def test_an_export_is_the_same_in_every_coding(client: FlaskClient, kind: str) -> None:
    """Decoded, it is what comes without a coding; Parquet, which is compressed already, comes as it is."""
    for rows in ("under=/api/", "prefix=/api/3/"):
        address = f"/stats/export?format={kind}&{rows}"
        plain = client.get(address).get_data()
        assert plain
        for coding in CODINGS:
            answer = client.get(address, headers={"Accept-Encoding": coding})
            assert answer.headers.get("Content-Encoding", "identity") == ("identity" if kind == "parquet" else coding)
            assert "Accept-Encoding" in answer.headers["Vary"]
            assert decoded(answer) == plain


ACCEPTED = [
    ("zstd", "zstd", None),
    ("gzip, deflate, br, zstd", "zstd", "gzip"),
    ("zstd;q=0.5, gzip;q=0.5", "zstd", "gzip"),
    ("zstd;q=0.1, gzip;q=0.9", "gzip", "gzip"),
    ("gzip;q=0.2, zstd;q=0.3", "zstd", "gzip"),
    ("zstd;q=0, gzip", "gzip", "gzip"),
    ("zstd;q=0, gzip;q=0", None, None),
    ("identity, zstd;q=0.5, gzip;q=0.5", None, None),
    ("gzip;q=0, *", "zstd", None),
    ("*;q=0", None, None),
    ("ZSTD", "zstd", None),
    ("br", None, None),
    ("", None, None),
]
"""What a client accepts, and the content coding of an export and of a page then."""


def test_the_coding_that_a_client_likes_best(client: FlaskClient) -> None:
    """Of those that there are, the one with the highest q, and zstd before gzip; what has q=0 is never taken."""
    for accepted, of_export, of_page in ACCEPTED:
        for address, coding in (("/stats/export", of_export), ("/stats/", of_page)):
            for ask in (client.get, client.head):
                answer = ask(address, headers={"Accept-Encoding": accepted})
                assert answer.status_code == 200
                assert answer.headers.get("Content-Encoding") == coding, accepted
                assert "Accept-Encoding" in answer.headers["Vary"]


def test_without_zstd_there_is_gzip(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is installed that makes zstd, an export comes in the next best coding."""
    for package in ("compression.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, package, None)
    for accepted, coding in (("zstd, gzip", "gzip"), ("zstd", None)):
        answer = client.get("/stats/export", headers={"Accept-Encoding": accepted})
        assert answer.headers.get("Content-Encoding") == coding
        assert b"/api/1/1/" in decoded(answer)


def exported(client: FlaskClient, parameters: str) -> list[str]:
    """Return an export's lines, without the export's own requests."""
    text = client.get(f"/stats/export?{parameters}").get_data(as_text=True)
    return [line for line in text.splitlines() if "/stats/" not in line]


@pytest.mark.parametrize("rows", ["", "&under=/api/", "&group=3", "&prefix=/api/3/&group=3"])
@pytest.mark.parametrize("order", ["requests", "none"])
def test_an_export_can_be_resumed(client: FlaskClient, order: str, rows: str) -> None:
    """Behind the last row that was received, a URL or a section, come all others, and none again."""
    whole = exported(client, f"order={order}{rows}")
    for got in (1, len(whole) // 2, len(whole)):
        last = json.loads(whole[got - 1])
        after = f"{last['requests']}:{last.get('url') or last['section']}"
        assert whole[:got] + exported(client, f"order={order}{rows}&after={after}") == whole


@pytest.mark.parametrize("rows", ["under=/api/", "group=2", "group=3&prefix=/api/4/"])
def test_sections_are_exported_as_they_are_shown(client: FlaskClient, rows: str) -> None:
    """In every format an export has the rows of the pages, in their order, with totals and numbers of URLs."""
    shown = [row for row in get(client, f"/stats/?{rows}")["sections"] if row["section"][:7] != "/stats/"]
    assert [json.loads(line) for line in exported(client, rows)] == shown
    text = client.get(f"/stats/export?{rows}&format=csv").get_data(as_text=True)
    table = [row for row in csv.DictReader(io.StringIO(text)) if row["section"][:7] != "/stats/"]
    assert table == [{name: str(value) for name, value in row.items()} for row in shown]
    page = client.get(f"/stats/?{rows}", headers={"Accept": "text/csv"}).get_data(as_text=True)
    assert [row for row in csv.DictReader(io.StringIO(page)) if row["section"][:7] != "/stats/"] == table
    data = client.get(f"/stats/export?{rows}&format=parquet").get_data()
    read = parquet.read_table(io.BytesIO(data)).to_pylist()
    assert [row for row in read if row["section"][:7] != "/stats/"] == shown


ROUTES = {'/<re("[a-z],{2}"):x>': 5, r"^b/(?P<id>\d+)/$": 4, "=/<path:rest>": 3, "/c/{id}": 3}


@pytest.fixture
def routed(client: FlaskClient) -> FlaskClient:
    """The client, after its own host has journalled hits of routes."""
    counter = client.application.extensions["hitledger"].counter
    for route, hits in ROUTES.items():
        counter.count(f"/{hits}/".encode(), hits, route)
    return client


def test_routes_have_their_own_rows(routed: FlaskClient) -> None:
    """Page by page in order; what the host has just journalled is in them, and all adds up to the total."""
    address: str | None = "/stats/?group=route&period=hour&limit=3"
    found = []
    for asked in (1, 2):
        assert address
        content = get(routed, address)
        assert content["other"] == {"(no route)": TOTAL + asked - 1, "(overflow)": 0}
        assert content["total_requests"] == TOTAL + asked - 1 + 15
        assert content["total_routes"] == 4
        assert "urls" not in content
        found += [(row["requests"], row["route"]) for row in content["routes"]]
        address = content["next"]
    assert found == sorted(((hits, route) for route, hits in ROUTES.items()), reverse=True)
    assert address is None


def test_routes_are_exported_as_they_are_shown(routed: FlaskClient) -> None:
    """In every format, whatever a template's text, and behind every row that was received; all adds up to the total."""
    page = get(routed, "/stats/?group=route")
    shown = page["routes"]

    def told(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the routes among rows that also say, once, what came under none."""
        under_none = [row["requests"] for row in rows if row["route"] == "(no route)"]
        # Each request for a report is one of them.
        assert len(under_none) == 1
        assert under_none[0] > page["other"]["(no route)"]
        return [row for row in rows if row["route"] != "(no route)"]

    assert told([json.loads(line) for line in exported(routed, "group=route")]) == shown
    text = routed.get("/stats/export?group=route&format=csv").get_data(as_text=True)
    assert told(table_of(text)) == shown
    assert "\n'=/<path:rest>," in text
    assert table_of(routed.get("/stats/?group=route", headers=CSV).get_data(as_text=True)) == shown
    data = routed.get("/stats/export?group=route&format=parquet").get_data()
    assert told(parquet.read_table(io.BytesIO(data)).to_pylist()) == shown
    for index, row in enumerate(shown, 1):
        after = urlencode({"group": "route", "after": f"{row['requests']}:{row['route']}"})
        assert [json.loads(line) for line in exported(routed, after)] == shown[index:]


def table_of(text: str) -> list[dict[str, Any]]:
    """Return the rows of a CSV of routes."""
    rows = csv.DictReader(io.StringIO(text))
    return [{"route": row["route"].removeprefix("'"), "requests": int(row["requests"])} for row in rows]


def test_csv_is_safe_in_a_spreadsheet(client: FlaskClient) -> None:
    """A URL that looks like a formula is text; everything reads back."""
    store: LedgerStore = client.application.extensions["hitledger"].store
    book(store, datetime.now(UTC), {"-1+cmd": 1000})
    for address, headers in (("/stats/export?format=csv", {}), ("/stats/", {"Accept": "text/csv"})):
        text = client.get(address, headers=headers).get_data(as_text=True)
        rows = [row for row in csv.reader(io.StringIO(text)) if "/stats/" not in row[0]]
        assert rows[0] == ["url", "requests"]
        assert rows[1] == ["'-1+cmd", "1000"]
        assert len(rows) == 61


def test_parquet_has_columns_of_their_types(client: FlaskClient) -> None:
    """The URLs are texts and the requests 64-bit numbers, in the report's order."""
    table = parquet.read_table(io.BytesIO(client.get("/stats/export?format=parquet").get_data()))
    assert str(table.schema).splitlines()[:2] == ["url: string", "requests: int64"]
    assert list(zip(table["requests"].to_pylist(), table["url"].to_pylist(), strict=True)) == IN_ORDER


def test_duckdb_reads_parquet(client: FlaskClient, tmp_path: Path) -> None:
    """DuckDB finds in the Parquet file the rows of the report."""
    file = tmp_path / "all.parquet"
    file.write_bytes(client.get("/stats/export?format=parquet").get_data())
    assert duckdb.read_parquet(str(file)).project("requests, url").fetchall() == IN_ORDER


def test_parquet_without_its_package(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pyarrow is not installed, asking for Parquet is a 422 that says what to install."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install" in get(client, "/stats/export?format=parquet", 422)["detail"]


def test_what_has_not_changed_is_not_sent_again(client: FlaskClient) -> None:
    """A validator of an answer is honoured, though its `as_of` would be another."""
    etag = client.get("/stats/url?url=/api/1/1/").headers["ETag"]
    again = client.get("/stats/url?url=/api/1/1/", headers={"If-None-Match": etag})
    assert (again.status_code, again.get_data()) == (304, b"")
    client.get("/api/1/1/")
    assert client.get("/stats/url?url=/api/1/1/", headers={"If-None-Match": etag}).status_code == 200


def test_a_validator_is_the_same_in_every_coding(client: FlaskClient) -> None:
    """It is a weak one of what the answer says; whoever has it from one coding is not sent another."""
    address = "/stats/url?url=/api/1/1/&by=hour"
    for coding, used in (("identity", None), ("gzip", "gzip"), ("zstd", None)):
        answer = client.get(address, headers={"Accept-Encoding": coding})
        assert (answer.status_code, answer.headers.get("Content-Encoding")) == (200, used)
        for other in CODINGS:
            headers = {"If-None-Match": answer.headers["ETag"], "Accept-Encoding": other}
            again = client.get(address, headers=headers)
            assert (again.status_code, again.get_data()) == (304, b"")
            assert again.headers["ETag"] == answer.headers["ETag"]
            assert "Accept-Encoding" in again.headers["Vary"]
            assert "Content-Encoding" not in again.headers


def test_head_has_the_headers_and_no_body(client: FlaskClient) -> None:
    """HEAD answers as GET would, without the body."""
    for address in ("/stats/", "/stats/url?url=/x", "/stats/export"):
        headed = client.head(address)
        assert (headed.status_code, headed.get_data()) == (200, b"")


def test_large_answers_are_compressed(client: FlaskClient) -> None:
    """With gzip accepted, a page over a packet's size comes compressed."""
    answer = client.get("/stats/", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert len(json.loads(gzip.decompress(answer.get_data()))["urls"]) == 59


@pytest.mark.parametrize("kind", ["ndjson", "csv", "parquet"])
def test_a_refused_export_is_an_error_in_every_format(client: FlaskClient, kind: str) -> None:
    """What there is no report of is said by the status, before a first byte."""
    assert get(client, f"/stats/export?format={kind}&period=day&at=2001-01-01", 404)["data_from"]
    assert get(client, f"/stats/export?format={kind}&period=day&at=2999-01-01", 422)["parameter"] == "at"


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("kind", ["ndjson", "csv"])
def test_an_export_that_breaks_off_cannot_be_taken_for_a_whole_one(
    settings: Settings, valkey: Valkey, kind: str, coding: str
) -> None:
    """Its ledger goes away in the middle: the last row is none, and what is packed has no end."""
    with valkey.proxy() as proxy:
        # However busy the machine is, only the proxy makes the ledger one that is away.
        patient = f"{proxy.url}{'&' if '?' in proxy.url else '?'}socket_timeout=20&socket_connect_timeout=20"
        app = create_app(replace(settings, redis_url=patient))
        book(app.extensions["hitledger"].store, datetime.now(UTC), {f"/{number}": 1 for number in range(20_000)})
        address = f"/stats/export?format={kind}&order=none"
        with app.test_client().get(address, headers={"Accept-Encoding": coding}, buffered=False) as answer:
            pieces = answer.iter_encoded()
            received = [next(pieces)]
            proxy.refuse()
            with pytest.raises(LedgerUnavailableError):
                received.extend(pieces)
        app.extensions["hitledger"].counter.stop()
    data = b"".join(received)
    if coding == "identity":
        assert not data.endswith(b"\n")
    elif coding == "gzip":
        with pytest.raises(EOFError):
            gzip.decompress(data)
    else:
        assert not zstandard.ZstdDecompressor().decompressobj().decompress(data).endswith(b"\n")


def test_only_so_many_exports_at_once(client: FlaskClient) -> None:
    """Exports keep threads busy: beyond a few, the next is asked to come again, and room comes back."""
    running = [client.get("/stats/export", buffered=False) for _ in range(2)]
    refused = client.get("/stats/export")
    assert refused.status_code == 503
    assert refused.headers["Retry-After"]
    for answer in running:
        answer.close()
    with client.get("/stats/export") as after:
        assert after.status_code == 200


@pytest.mark.parametrize(
    ("allowed", "origin", "answer"),
    [
        ((), "https://a.example", None),
        (("https://a.example",), "https://a.example", "https://a.example"),
        (("https://a.example",), "https://b.example", None),
        (("*",), "https://b.example", "*"),
    ],
)
def test_other_origins_read_where_they_are_allowed(
    settings: Settings, allowed: tuple[str, ...], origin: str, answer: str | None
) -> None:
    """Pages of the origins in the settings may read reports from a browser, and no others."""
    app = create_app(replace(settings, cors_origins=allowed))
    for method in ("GET", "OPTIONS"):
        headers = app.test_client().open("/stats/", method=method, headers={"Origin": origin}).headers
        assert headers.get("Access-Control-Allow-Origin") == answer
    app.extensions["hitledger"].counter.stop()
