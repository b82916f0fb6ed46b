"""The dashboard: what the report says, as pages that hostile paths cannot turn against their reader."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from hitledger.errors import ReportBusyError
from hitledger.report import Page, Query, Reports
from hitledger.settings import Settings
from hitledger.web import create_app
from tests.guarded import start_valkey

pytestmark = pytest.mark.usefixtures("one_hour")


@pytest.fixture
def client(settings: Settings) -> Iterator[FlaskClient]:
    """A client of a service with a ledger."""
    app = create_app(settings)
    yield app.test_client()
    app.extensions["hitledger"].counter.stop()


def test_the_first_page_lists_the_hottest_urls(client: FlaskClient) -> None:
    """Without any script: rows in order with their numbers, and how to go on."""
    for path, times in (("/api/hot/", 3), ("/api/cold/", 1)):
        for _ in range(times):
            client.get(path)
    text = client.get("/").get_data(as_text=True)
    assert text.index("/api/hot/") < text.index("/api/cold/")
    assert "75.0 %" in text
    assert "as of" in text


@pytest.mark.parametrize(
    "path", ["/api/<script>alert(1)</script>/", '/api/"onload="x/', "/api/\u202ex/", "/api/" + "x" * 2000, "/api/😀/"]
)
def test_hostile_paths_are_text(client: FlaskClient, path: str) -> None:
    """Markup, quotes, marks that turn the reading direction and long texts are shown escaped."""
    client.get(path)
    for address in ("/", "/?prefix=/api/&group=2", "/live/", "/live/?prefix=/api/&group=2", f"/?search={path[5:20]}"):
        text = client.get(address).get_data(as_text=True)
        assert "<script>alert" not in text
        assert '"onload="' not in text
        assert "\u202e" not in text


def test_no_script_but_ours_may_run(client: FlaskClient) -> None:
    """A strict policy, and nothing inline that it would have to allow."""
    client.get("/api/shop/tools/")
    client.get("/api/shop/")
    for address in ("/", "/runs/", "/?prefix=/&group=1", "/url?url=/api/shop/", "/live/", "/live/url?url=/api/shop/"):
        answer = client.get(address)
        policy = answer.headers["Content-Security-Policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        text = answer.get_data(as_text=True)
        assert not re.search(r"<script(?! src=)|\son\w+=|\sstyle=", text)


def test_a_wrong_parameter_is_said_on_the_page(client: FlaskClient) -> None:
    """A mistyped address is a page that says so, with what can be asked instead."""
    answer = client.get("/?limit=0")
    assert answer.status_code == 422
    assert "The parameter limit takes a whole number" in answer.get_data(as_text=True)


def test_sections_can_be_walked_down(client: FlaskClient) -> None:
    """A section links to the one below it, and the way back is in the crumbs."""
    client.get("/api/shop/tools/")
    text = client.get("/?prefix=/api/&group=2").get_data(as_text=True)
    assert "prefix=%2Fapi%2Fshop%2F" in text
    below = client.get("/?prefix=/api/shop/&group=3").get_data(as_text=True)
    assert "/api/shop/tools/" in below
    assert 'aria-label="Section"' in below


def test_further_pages_go_on_with_the_rank(client: FlaskClient) -> None:
    """The next page begins where this one ended, and no row is on both."""
    for number in range(40):
        client.get(f"/api/{number:02}/")
    text = client.get("/").get_data(as_text=True)
    found = re.search(r'<a href="([^"]+)" rel="next"', text)
    assert found
    following = client.get(found.group(1).replace("&amp;", "&")).get_data(as_text=True)
    assert '<td class="number rank">26</td>' in following
    first, second = (set(re.findall(r"<bdi>([^<]+)", each)) for each in (text, following))
    assert not first & second


def test_looking_does_not_count(client: FlaskClient) -> None:
    """The pages' own polling and files leave no trace; opening the page itself is a request."""
    for address in ("/live/", "/live/url?url=/x", "/live/runs/"):
        assert client.get(address).status_code == 200
    client.get("/static/dashboard.js").close()
    assert json.loads(client.get("/stats/").get_data())["total_requests"] == 0
    client.get("/")
    assert json.loads(client.get("/stats/").get_data())["urls"][0]["requests"] == 1


def test_a_form_is_read_as_people_mean_it(client: FlaskClient) -> None:
    """Empty fields are none, a range stands for itself, and its last day belongs to it."""
    client.get("/api/one/")
    day = datetime.now(UTC).date()
    for address, status in (
        ("/?search=&period=all&from=&until=", 200),
        (f"/?period=day&from={day}&until={day}", 200),
        (f"/?until={day}", 200),
        ("/?prefix=/api/&group=2&search=one", 200),
        ("/?search=%F0%9F%98%80%E2%80%AE", 200),
        ("/?until=soon", 422),
        ("/?rank=%C2%B2", 200),
        ("/url", 422),
        ("/url?url=/api/one/&by=week", 422),
        ("/url?url=/never/", 200),
        ("/url?url=%FF&by=hour", 200),
        ("/live/url?url=%FF", 200),
        ("/?search=%FF%FE&by=day", 200),
    ):
        answer = client.get(address)
        text = answer.get_data(as_text=True)
        assert (address, answer.status_code) == (address, status)
        assert "<main" in text or "/live/" in address
        if f"until={day}" in address:
            assert "/api/one/" in text
            assert f'name="until" value="{day}"' in text


def test_one_url_has_a_page(client: FlaskClient) -> None:
    """Each row leads to its URL's total, rank and history, drawn by the server."""
    for path, times in (("/api/hot/", 9), ("/api/%3cb%3e/", 8)):
        for _ in range(times):
            client.get(path)
    text = client.get("/").get_data(as_text=True)
    found = re.search(r'href="(/url\?url=[^"]*3Cb[^"]*)"', text)
    assert found
    for by in ("hour", "day", "month"):
        page = client.get(f"{found.group(1)}&by={by}").get_data(as_text=True)
        assert "/api/%3Cb%3E/</bdi>" in page
        assert re.search(r"data-total data-flash>8<", page)
        assert re.search(r"data-rank>2<", page)
        assert page.count("<tr data-key=") == 1


def test_a_ledger_that_is_away_is_said_with_the_last_figures(settings: Settings) -> None:
    """Never zeros: the last page that could be read, and a word that it is old."""
    with tempfile.TemporaryDirectory(prefix="hitledger-") as directory:
        server = start_valkey(Path(directory))
        app = create_app(replace(settings, redis_url=server.url))
        client = app.test_client()
        client.get("/api/kept/")
        assert "/api/kept/" in client.get("/").get_data(as_text=True)
        server.kill()
        text = client.get("/").get_data(as_text=True)
        assert "/api/kept/" in text
        assert "cannot be read now" in text
        assert "last figures known" in text
        assert 'class="balance away"' in text
        assert re.search(r'data-balance="posted">[12]<', text)
        live = client.get("/live/").get_data(as_text=True)
        assert "/api/kept/" in live
        assert "last figures known" in live
        assert re.search(r'data-balance="pending">[1-9]', live)
        app.extensions["hitledger"].counter.stop()


def test_a_newcomer_is_told_what_to_ask_for(client: FlaskClient) -> None:
    """The first screen of an empty service says how to fill it; it goes once there is something to see."""
    assert "curl http://localhost/api/one/" in client.get("/").get_data(as_text=True)
    for number in range(5):
        client.get(f"/api/{number}/")
    assert "curl" not in client.get("/").get_data(as_text=True).replace("hitledger audit", "")
    assert "No URL contains" in client.get("/?search=nothing").get_data(as_text=True)
    assert "never requested" in client.get("/url?url=/never/").get_data(as_text=True)


def test_a_long_report_says_how_far_it_is(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at an empty page meanwhile: it says so, asks again by itself, and has all else already."""

    def busy(reports: Reports, query: Query) -> Page:
        assert isinstance(reports, Reports)
        raise ReportBusyError(f"The report is being added up; 40 % are done {query.group}.", 5)

    client.get("/api/one/")
    client.get("/")
    monkeypatch.setattr(Reports, "page", busy)
    for address in ("/?prefix=/api/&group=2", "/live/?prefix=/api/&group=2"):
        answer = client.get(address)
        text = answer.get_data(as_text=True)
        assert answer.status_code == 200
        assert "40 % are done 2" in text
        assert "Adding it up" in text
        assert re.search(r'data-balance="posted">[1-9]', text)


def test_a_section_is_a_map_and_a_table(client: FlaskClient) -> None:
    """Both lead down; a URL that is its own section leads to its page, so that the way down ends."""
    for path, times in (("/api/shop/tools/", 3), ("/api/shop/", 2), ("/api/home/", 1)):
        for _ in range(times):
            client.get(path)
    text = client.get("/?prefix=/api/&group=2").get_data(as_text=True)
    assert text.count('href="/?prefix=%2Fapi%2Fshop%2F&amp;group=3"') == 2
    below = client.get("/?prefix=/api/home/&group=3").get_data(as_text=True)
    assert 'href="/url?url=%2Fapi%2Fhome%2F"' in below
    for kind in ("csv", "ndjson"):
        address = re.search(rf'"(/stats/export\?format={kind}[^"]*)"', text)
        assert address
        rows = client.get(address.group(1).replace("&amp;", "&")).get_data(as_text=True)
        assert "/api/shop/" in rows


def test_routes_are_a_table(client: FlaskClient) -> None:
    """One switch away from the URLs; templates are text, and what has no route stands beside them."""
    counter = client.application.extensions["hitledger"].counter
    client.get("/api/one/")
    assert "CountHits does" in client.get("/?group=route").get_data(as_text=True)
    counter.count(b"/shop/1/", 2, "/shop/<id>/")
    counter.count(b"/shop/2/", 1, "/shop/<id>/")
    assert 'href="/?group=route"' in client.get("/").get_data(as_text=True)
    for address in ("/?group=route", "/live/?group=route"):
        text = client.get(address).get_data(as_text=True)
        assert "/shop/&lt;id&gt;/" in text
        assert "<span data-flash>3</span>" in text
        assert re.search(r"\(no route\) [1-9]<", text)
        assert 'href="/stats/export?format=csv&amp;group=route"' in text


def test_a_chart_leads_to_its_periods(client: FlaskClient) -> None:
    """All requests over time are drawn by hour, day or month; each bar is the way to that time's page."""
    client.get("/api/one/")
    for by in ("hour", "day", "month"):
        text = client.get(f"/?by={by}").get_data(as_text=True)
        bars = re.findall(rf'href="(/\?period={by}&amp;at=[^"]+)"', text)
        assert bars
        last = client.get(bars[-1].replace("&amp;", "&"))
        assert last.status_code == 200
        assert "/api/one/" in last.get_data(as_text=True)
    assert client.get("/?by=week").status_code == 422


def test_a_run_is_started_and_refused_by_a_form(client: FlaskClient) -> None:
    """Without any script: what cannot be started or cancelled is said on the page, with the right status."""
    for address, form, status, words in (
        ("/runs/", {"n": "none"}, 422, "whole number"),
        ("/runs/", {"n": "5"}, 503, "No worker is running"),
        ("/runs/01ARZ3NDEKTSV4RRFFQ69G5FAV/cancel/", {}, 404, "no such test run"),
    ):
        answer = client.post(address, data=form)
        assert answer.status_code == status
        assert words in answer.get_data(as_text=True)


def test_the_first_load_is_light(client: FlaskClient) -> None:
    """The first page with all that it loads has under 100 kB, even where nothing is compressed."""
    for number in range(30):
        client.get(f"/api/{'section' * 9}/{number}/")
    page = client.get("/").get_data(as_text=True)
    loads = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', page))
    assert loads == {"/static/dashboard.css", "/static/dashboard.js", "/static/icon.svg"}
    size = len(page.encode())
    for each in loads:
        answer = client.get(each)
        size += len(answer.get_data())
        answer.close()
    assert size < 100_000


def test_a_run_that_is_not_there_is_said_and_stays_said(client: FlaskClient) -> None:
    """An address of a run that is forgotten says so, and what keeps the page up to date goes on saying it."""
    said = "There is no such test run"
    page = client.get("/runs/?run=01ARZ3NDEKTSV4RRFFQ69G5FAV").get_data(as_text=True)
    (live,) = re.findall(r'data-live="([^"]+)"', page)
    assert said in page
    assert said in client.get(live.replace("&amp;", "&")).get_data(as_text=True)


def test_a_search_is_shown_as_it_was_typed(client: FlaskClient) -> None:
    """Spaces are spaces in what the page says of a search; what could turn the text around stays encoded."""
    assert "No URL contains “<bdi>no such thing</bdi>”" in client.get("/?search=no+such+thing").get_data(as_text=True)
    assert "“<bdi>%E2%80%AEevil</bdi>”" in client.get("/?search=%E2%80%AEevil").get_data(as_text=True)


def test_runs_are_not_denied_while_the_ledger_is_away(settings: Settings) -> None:
    """What cannot be read is said to be unknown: neither that a run is gone, nor that there is none."""
    app = create_app(replace(settings, redis_url="redis://127.0.0.1:1"))
    text = app.test_client().get("/runs/?run=01ARZ3NDEKTSV4RRFFQ69G5FAV").get_data(as_text=True)
    app.extensions["hitledger"].counter.stop()
    assert "Which runs there are is not known now." in text
    assert "There is no such test run" not in text
    assert "No test run yet" not in text
