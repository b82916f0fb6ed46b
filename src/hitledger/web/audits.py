"""`/audit/`: what `hitledger audit` proves, over HTTP.

It takes as long as there is to read, so it is made by a process of its own (`auditor`), and the answer
begins before it ends: blanks, which JSON allows before its first word, keep the connection from looking
idle, and tell us when nobody waits any more.
"""

from __future__ import annotations

from collections.abc import Iterator

from flask import Response, json, request
from flask_openapi3 import APIBlueprint
from pydantic import BaseModel, Field

from hitledger.audit import JournalAudit, ShardAudit
from hitledger.auditor import audit_apart
from hitledger.report.export import begun
from hitledger.routeaudit import RoutesAudit
from hitledger.sectionaudit import SectionsAudit
from hitledger.settings import Settings
from hitledger.web.problems import Problem, problem
from hitledger.web.runs import NoQuery
from hitledger.web.services import Services

FIRST_SECONDS = 10.0
"""How long an audit may take before its answer begins: so far, what goes wrong has a status of its own."""
BLANK_SECONDS = 1.0
RETRY_AFTER_SECONDS = 10


class AuditBalance(BaseModel):
    """In hits: received = posted + pending + refused + lost."""

    received: int
    posted: int
    pending: int
    refused: int
    lost: int


class Audit(BaseModel):
    """What an audit found, of the whole ledger and of the journal of the host that answers."""

    ledger: str = Field(description="The ledger's id.")
    balance: AuditBalance
    differences: list[str] = Field(description="A line for each sum that does not agree; none where all do.")
    shards: list[ShardAudit]
    journals: list[JournalAudit] = Field(description="The answering host's journal files.")
    routes: list[RoutesAudit]
    sections: list[SectionsAudit]


def audit_api(services: Services) -> APIBlueprint:
    """Return the endpoint."""
    blueprint = APIBlueprint("audit", __name__)

    @blueprint.get(
        "/audit/",
        responses={200: Audit, 422: Problem, 429: Problem, 503: Problem},
        summary="Prove that every hit received is posted, pending, refused or lost, and that all sums agree",
        description="Works on a live ledger and holds nothing up; a host makes one audit at a time. The answer may "
        "begin with blanks, one a second where the audit takes longer than ten; one that breaks off before its JSON "
        "ends has failed.",
    )
    def audit(query: NoQuery) -> Response:
        del query
        headers = {"Cache-Control": "no-store"}
        if request.method == "HEAD":
            return Response(headers=headers, mimetype="application/json")
        pieces = _made(services.settings)
        # What can be said as an error must be said before the first byte.
        response = Response(begun(pieces), headers=headers, mimetype="application/json")
        response.call_on_close(pieces.close)  # type: ignore[attr-defined] # it is a generator
        return response

    return blueprint


def _made(settings: Settings) -> Iterator[bytes]:
    """Yield blanks while an audit is made, and then its report. Raises LedgerError, ProblemError."""
    with audit_apart(settings) as wait:
        if wait is None:
            again = {"Retry-After": str(RETRY_AFTER_SECONDS)}
            problem(503, "An audit is being made on this host already. Ask again when it has ended.", again)
        report = wait(FIRST_SECONDS)
        while report is None:
            yield b" "
            report = wait(BLANK_SECONDS)
        yield (json.dumps(report) + "\n").encode()
