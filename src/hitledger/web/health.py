"""`/livez` and `/readyz`, for those who decide whether this process gets requests."""

from __future__ import annotations

from typing import Literal

from flask import Response
from flask_openapi3 import APIBlueprint
from pydantic import BaseModel, Field

from hitledger.web.services import Services


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class JournalState(BaseModel):
    """The journal of this host."""

    writable: bool
    pending_bytes: int = Field(description="Bytes of the host's journal that are not in the ledger yet.")
    lost: int = Field(description="Hits that this process could not journal.")


class LedgerState(BaseModel):
    """The ledger as posting last found it."""

    reachable: bool


class Ready(BaseModel):
    """Whether the service can answer and journal; the ledger may be away meanwhile."""

    status: Literal["ready", "not ready"]
    journal: JournalState
    ledger: LedgerState


def health_api(services: Services) -> APIBlueprint:
    """Return the endpoints for probes; they are not counted."""
    blueprint = APIBlueprint("health", __name__)

    @blueprint.get("/livez", responses={200: Alive}, summary="Is the process alive?")
    def livez() -> Response:
        return _json(Alive(), 200)

    @blueprint.get("/readyz", responses={200: Ready, 503: Ready}, summary="Can it answer and journal?")
    def readyz() -> Response:
        journal = services.counter.journal
        status = services.counter.poster.status
        ready = journal.writable or not services.counter.refuses
        state = Ready(
            status="ready" if ready else "not ready",
            journal=JournalState(writable=journal.writable, pending_bytes=status.pending_bytes, lost=journal.lost),
            ledger=LedgerState(reachable=not status.error),
        )
        return _json(state, 200 if ready else 503)

    return blueprint


def _json(content: BaseModel, status: int) -> Response:
    response = Response(content.model_dump_json() + "\n", status, mimetype="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response
