"""openapi: the document says what the service does, in words that a client generator takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from hitledger.web.openapi import ANYWHERE
from tests.credentials import WITHOUT_SIGN_IN
from tests.support import Clients


def document_of(client: FlaskClient) -> dict[str, Any]:
    """Return a service's OpenAPI document."""
    found: dict[str, Any] = json.loads(client.get("/openapi.json").get_data())
    return found


@pytest.fixture
def client(clients: Clients) -> FlaskClient:
    """A client of a service that lets test runs send 77 requests."""
    return clients(test_max_requests=77)


@pytest.fixture
def document(client: FlaskClient) -> dict[str, Any]:
    """The OpenAPI document."""
    return document_of(client)


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every operation."""
    return [operation for path in document["paths"].values() for operation in path.values()]


def test_errors_are_documented_as_problems(document: dict[str, Any]) -> None:
    """Each operation names the errors that any request may meet, and every error is a problem; readiness is none."""
    for operation in operations(document):
        assert {str(status) for status in ANYWHERE} <= set(operation["responses"])
        for status, response in operation["responses"].items():
            if int(status) >= 400 and operation["operationId"] != "health_readyz_readyz_get":
                assert list(response["content"]) == ["application/problem+json"]
    assert "application/json" in document["paths"]["/readyz"]["get"]["responses"]["503"]["content"]


def test_no_parameter_may_be_null(document: dict[str, Any]) -> None:
    """A query string cannot say null: an optional parameter is left out."""
    parameters = [each for operation in operations(document) for each in operation["parameters"]]
    assert len(parameters) > 25
    assert "null" not in json.dumps(parameters)


def test_the_size_of_a_run_has_its_bound(document: dict[str, Any]) -> None:
    """The document's maximum is the setting's."""
    (size,) = (each for each in document["paths"]["/test/{n}/"]["post"]["parameters"] if each["name"] == "n")
    assert (size["schema"]["minimum"], size["schema"]["maximum"]) == (1, 77)


def test_what_is_not_documented_is_not_there(client: FlaskClient) -> None:
    """The list of runs takes no POST, although it looks like a run's size."""
    answer = client.post("/test/runs/")
    assert answer.status_code == 405
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
    assert client.post("/test/x/").status_code == 422


def test_who_needs_a_key_is_told(clients: Clients) -> None:
    """With authentication on, what needs a right says which, and how a missing key is answered; nothing else does."""
    document = document_of(clients(auth="keys"))
    needs = {
        f"{method} {path}": operation["security"]
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if "security" in operation
    }
    assert needs["post /test/{n}/"] == [{"bearer": ["test:run"]}]
    assert needs["get /stats/"] == [{"bearer": ["stats:read"]}]
    assert not {"get /api/", "get /livez", "get /readyz"} & set(needs)
    assert {"401", "403"} <= set(document["paths"]["/stats/export"]["get"]["responses"])
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert "securitySchemes" not in document_of(clients(**WITHOUT_SIGN_IN))["components"]
