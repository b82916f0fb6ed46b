"""Every error as `application/problem+json` (RFC 9457), and nothing internal in any of them."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any, NoReturn

from flask import Flask, Response, request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from werkzeug.exceptions import HTTPException

from hitledger.errors import LedgerError, NotKeptError, QueryError, ReportBusyError
from hitledger.web.requests import request_id

log = logging.getLogger("hitledger.web")

MOST_INSTANCE = 256
"""Characters of the path that a problem repeats."""
DETAILS = {
    404: "There is nothing at this URL. /docs/ lists what there is.",
    405: "This URL does not take this method; the Allow header names those it takes.",
    413: "The request's body is larger than this service takes.",
    500: "Something went wrong in the service. Its log has the request's id.",
}
"""What is said where werkzeug's own words would tell a client little."""


class Problem(BaseModel):
    """What went wrong with a request (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="A URI for the kind of problem; about:blank where the title says it all.")
    title: str
    status: int
    detail: str
    instance: str = Field(description="The path that was asked for.")
    request_id: str
    parameter: str | None = Field(None, description="The parameter that is wrong, if one is.")


class ProblemError(Exception):
    """Raised by an endpoint to answer with a problem."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None, **members: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}
        self.members = members


def problem(status: int, detail: str, headers: dict[str, str] | None = None, **members: Any) -> NoReturn:
    """Answer the request with a problem; `members` are added to its JSON."""
    raise ProblemError(status, detail, headers, **members)


def problem_response(status: int, detail: str, headers: dict[str, str] | None = None, **members: Any) -> Response:
    """Return a problem as a response."""
    content = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request.path[:MOST_INSTANCE],
        "request_id": request_id(),
        **members,
    }
    response = Response(json.dumps(content) + "\n", status, mimetype="application/problem+json")
    response.headers["Cache-Control"] = "no-store"
    response.headers.update(headers or {})
    return response


def validation_failed(error: ValidationError) -> Response:
    """Return the problem for parameters that do not fit, naming the first of them."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = ".".join(str(part) for part in first["loc"]) or "body"
    if first["type"] == "extra_forbidden":
        return problem_response(422, f"There is no parameter {name}.", parameter=name)
    return problem_response(422, f"{name}: {first['msg']}.", parameter=name)


def install_problems(app: Flask) -> None:
    """Let every error of the application be answered as a problem."""
    app.register_error_handler(ProblemError, _raised)
    app.register_error_handler(QueryError, _bad_query)
    app.register_error_handler(NotKeptError, _not_kept)
    app.register_error_handler(ReportBusyError, _busy)
    app.register_error_handler(LedgerError, _ledger_away)
    app.register_error_handler(HTTPException, http_problem)
    app.register_error_handler(Exception, _crash)


def _raised(error: ProblemError) -> Response:
    return problem_response(error.status, error.detail, error.headers, **error.members)


def _bad_query(error: QueryError) -> Response:
    return problem_response(422, f"{error.parameter}: {error.message}", parameter=error.parameter)


def _not_kept(error: NotKeptError) -> Response:
    return problem_response(404, str(error), data_from=error.data_from)


def _busy(error: ReportBusyError) -> Response:
    return problem_response(503, str(error), {"Retry-After": str(error.retry_seconds)})


def _ledger_away(error: LedgerError) -> Response:
    log.warning("request %s cannot be answered: %s", request_id(), error)
    detail = "The ledger cannot be read now. Requests are still counted and will be in it when it is back."
    return problem_response(503, detail, {"Retry-After": "2"})


def http_problem(error: HTTPException) -> Response | HTTPException:
    """Answer what werkzeug has raised."""
    # Some carry a whole response, such as a redirect.
    if error.response is not None or error.code is None or error.code < 400:
        return error
    headers = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
    return problem_response(error.code, DETAILS.get(error.code) or error.description or "", headers)


def _crash(error: Exception) -> Response:
    log.error("request %s failed", request_id(), exc_info=error)
    return problem_response(500, DETAILS[500])
