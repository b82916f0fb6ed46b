"""web: every request gets an answer that says what it means, and nothing internal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from hitledger.settings import Settings
from hitledger.web import create_app
from hitledger.web.services import Services
from tests.support import Clients

PROBLEM_MEMBERS = {"type", "title", "status", "detail", "instance", "request_id"}


def client_of(settings: Settings) -> Iterator[FlaskClient]:
    """Yield a client of a service, and end the service."""
    app = create_app(settings)
    yield app.test_client()
    services: Services = app.extensions["hitledger"]
    services.counter.stop()


@pytest.fixture
def client(settings: Settings) -> Iterator[FlaskClient]:
    """A client of a service with a ledger."""
    yield from client_of(settings)


@pytest.fixture
def lonely(settings: Settings) -> Iterator[FlaskClient]:
    """A client of a service whose ledger is away."""
    yield from client_of(replace(settings, redis_url="redis://sesame:sesame@127.0.0.1:1"))


def problem_of(answer: TestResponse, status: int) -> dict[str, Any]:
    """Return a problem, checked for what every problem has."""
    assert answer.status_code == status
    assert answer.mimetype == "application/problem+json"
    content: dict[str, Any] = json.loads(answer.get_data())
    assert set(content) >= PROBLEM_MEMBERS
    assert content["status"] == status
    assert content["request_id"] == answer.headers["X-Request-ID"]
    assert "sesame" not in answer.get_data(as_text=True)
    return content


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/api/", "/api/"), ("/api", "/api"), ("/api/one", "/api/one"), ("/api/one/", "/api/one/"),
        ("/api/a/b/c/d/e/f/", "/api/a/b/c/d/e/f/"), ("/api//", "/api//"), ("/api//one//two", "/api//one//two"),
        ("/api/%C3%A9%2F%20", "/api/%C3%A9/%20"), ("/api/x?a=b", "/api/x"),
        ("/api/a%0Ab%00", "/api/a%0Ab%00"),
        ("/api/%3Cb%3E", "/api/%3Cb%3E"), ("/api/../x", "/api/../x"),
    ],
)  # fmt: skip
def test_everything_below_api_answers_and_counts_under_its_url(client: FlaskClient, path: str, url: str) -> None:
    """Any number of segments, doubled slashes and odd bytes: 200, never a redirect, counted as it says."""
    answer = client.get(path)
    assert answer.status_code == 200
    assert json.loads(answer.get_data()) == {"url": url}
    assert json.loads(client.get("/stats/").get_data())["urls"] == [{"url": url, "requests": 1}]


def test_unknown_paths_and_methods_are_problems(client: FlaskClient) -> None:
    """404 and 405 say what to do; 405 names the methods."""
    assert "/docs/" in problem_of(client.get("/nothing"), 404)["detail"]
    answer = client.delete("/api/one/")
    problem_of(answer, 405)
    assert "GET" in answer.headers["Allow"]


def test_a_browser_that_is_lost_gets_a_page(clients: Clients) -> None:
    """Whoever follows a wrong link in a browser is shown the way; where there is something, errors stay problems."""
    client = clients(auth="none")  # a browser sends no token
    browser = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    answer = client.get("/nothing", headers=browser)
    assert (answer.status_code, answer.mimetype) == (404, "text/html")
    assert 'href="/docs/"' in answer.get_data(as_text=True)
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    problem_of(client.get("/test/runs/none/", headers=browser), 404)
    problem_of(client.post("/nothing", headers=browser), 404)


def test_a_long_path_is_a_problem_and_counts_as_oversized(client: FlaskClient) -> None:
    """414 before any endpoint sees it; its text does not come back at full length."""
    content = problem_of(client.get("/api/" + "x" * 9_000), 414)
    assert len(content["instance"]) < 300
    assert json.loads(client.get("/stats/").get_data())["other"]["(oversized)"] == 1


def test_a_large_body_is_a_problem(client: FlaskClient) -> None:
    """10 MB for an endpoint that takes none are refused unread."""
    problem_of(client.post("/test/1/", data=b"x" * 10_000_000), 413)


@pytest.mark.parametrize("name", ["limit", "x"])
def test_a_parameter_given_twice_is_named(client: FlaskClient, name: str) -> None:
    """Two values for one parameter are nobody's guess."""
    assert problem_of(client.get(f"/stats/?{name}=1&{name}=1"), 422)["parameter"] == name


def test_a_request_id_is_kept_if_it_is_well_formed(client: FlaskClient) -> None:
    """A client's id comes back; one that could break a log line does not."""
    assert client.get("/nothing", headers={"X-Request-ID": "abc-1"}).headers["X-Request-ID"] == "abc-1"
    made = client.get("/nothing", headers={"X-Request-ID": "a b" * 50}).headers["X-Request-ID"]
    assert made.isalnum()


def test_a_ledger_that_is_away_is_a_503_and_costs_no_count(lonely: FlaskClient) -> None:
    """Requests are answered as ever; a report says that it cannot be had now; health says why."""
    assert lonely.get("/api/one/").status_code == 200
    answer = lonely.get("/stats/")
    problem_of(answer, 503)
    assert int(answer.headers["Retry-After"]) >= 1
    ready = lonely.get("/readyz")
    assert ready.status_code == 200
    content = json.loads(ready.get_data())
    assert (content["status"], content["ledger"]["reachable"]) == ("ready", False)
    assert content["journal"]["pending_bytes"] > 0
    assert lonely.get("/livez").status_code == 200


def test_a_crash_tells_the_log_and_not_the_client(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    """A bug in an endpoint is a 500 with an id that the log has, and no trace of the code."""
    app = client.application

    def crash(**_: object) -> str:
        raise ZeroDivisionError

    app.view_functions["stats.stats"] = crash
    content = problem_of(client.get("/stats/"), 500)
    assert "ZeroDivision" not in json.dumps(content)
    assert content["request_id"] in caplog.text


def test_the_api_describes_itself(client: FlaskClient) -> None:
    """/openapi.json lists every endpoint with its answers, and /docs/ needs nothing from elsewhere."""
    document = json.loads(client.get("/openapi.json").get_data())
    assert document["openapi"].startswith("3.1")
    assert {"/api/", "/stats/", "/test/{n}/", "/test/runs/", "/test/runs/{id}/", "/livez", "/readyz"} <= set(
        document["paths"]
    )
    page = client.get("/docs/").get_data(as_text=True)
    assert "://" not in page
    for asset in ("swagger-ui.css", "swagger-ui-bundle.js", "start.js"):
        assert f"/static/docs/{asset}" in page
        with client.get(f"/static/docs/{asset}") as answer:
            assert answer.status_code == 200
    problem_of(client.get("/static/docs/passwd"), 404)


def test_health_is_not_counted(client: FlaskClient) -> None:
    """Probes and static files leave no trace in the counts."""
    for path in ("/livez", "/readyz", "/static/docs/start.js"):
        client.get(path).close()
    assert json.loads(client.get("/stats/").get_data())["total_requests"] == 0
