"""What every answer must keep beyond schemathesis' own checks."""

from __future__ import annotations

import re
from typing import Any

import schemathesis

INSIDE = re.compile(
    rb"Traceback|\bFile \"|\.py\b|site-packages|\bredis\b|\bvalkey\b|Granian|Werkzeug|/home/|/tmp/|/root/",
    re.IGNORECASE,
)
"""What tells of the inside: a stack trace, a file, a library, a path of the server."""
PROBLEM_MEMBERS = {"type", "title", "status", "detail", "instance", "request_id"}


@schemathesis.check
def nothing_internal(
    _: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """No error tells of the inside of the service, other than what the request itself said."""
    if response.status_code < 400:
        return
    asked = case.as_transport_kwargs()
    found = INSIDE.search(response.content)
    said = str((case.formatted_path, case.query, asked)).encode().lower()
    assert found is None or found.group().lower() in said, f"the answer tells of the inside: {found.group()!r}"


@schemathesis.check
def errors_are_problems(
    _: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Every error is a problem (RFC 9457) whose status and request id are those of the answer."""
    readiness = case.path == "/readyz" and response.status_code == 503
    if response.status_code < 400 or case.method == "HEAD" or readiness:
        return
    content_type = response.headers["content-type"][0]
    assert content_type.startswith("application/problem+json"), f"an error as {content_type}"
    content = response.json()
    assert set(content) >= PROBLEM_MEMBERS, f"a problem without {PROBLEM_MEMBERS - set(content)}"
    assert content["status"] == response.status_code
    assert [content["request_id"]] == response.headers["x-request-id"]


@schemathesis.check
def is_protected(_: schemathesis.CheckContext, response: schemathesis.Response, __: schemathesis.Case[Any]) -> None:
    """No browser guesses at an answer's type, and no answer names the software behind it."""
    assert response.headers["x-content-type-options"] == ["nosniff"]
    assert "x-powered-by" not in response.headers
    assert response.headers["server"] == ["hitledger"]
