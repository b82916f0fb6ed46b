"""`POST /test/<n>/` and the runs that it starts.

A run's requests are answered by the very threads that could be waiting for its end, so only
some of them may wait: whoever comes beyond that gets 202 at once. Any number of runs can
be asked for together, and none of them stands in another's way.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from flask import Response
from flask_openapi3 import APIBlueprint
from pydantic import BaseModel, ConfigDict, Field
from werkzeug.routing import BaseConverter

from hitledger.errors import LedgerError, RunUnavailableError
from hitledger.testrun.run import CANCELLED, Run
from hitledger.web.problems import Problem, problem
from hitledger.web.services import Services

log = logging.getLogger("hitledger.web")

DEFAULT_WAIT_SECONDS = 10
MOST_WAIT_SECONDS = 60
MOST_WAITING = 32
"""Requests of one process that wait at once, however many threads it has: each holds a connection to the ledger."""
RETRY_AFTER_SECONDS = 2


class Latencies(BaseModel):
    """How long the answers took, in milliseconds."""

    p50: float
    p90: float
    p99: float
    max: float


class TestRun(BaseModel):
    """A test run, as far as it is."""

    __test__ = False  # no test, whatever its name makes test runners think

    id: str = Field(description="Ids sort by age.")
    status: Literal["queued", "running", "finished", "cancelled", "failed"]
    requested: int
    sent: int = Field(description="Requests that were sent and have ended, well or not.")
    succeeded: int = Field(description="Requests answered with 2xx.")
    failed: int = Field(description="Requests answered with anything else, or not at all. None is repeated.")
    pool: list[str] = Field(description="The strings that every segment of the run's URLs is drawn from.")
    distinct_urls: int
    started_at: str | None
    finished_at: str | None
    requests_per_second: float | None
    latency_ms: Latencies | None = Field(description="Of all answers; known when the run has ended.")
    error: str | None = Field(description="Why the run failed, if it did.")

    @classmethod
    def of(cls, run: Run) -> TestRun:
        """Return a run as it is shown."""
        return cls(
            id=run.id,
            status=run.status,  # type: ignore[arg-type] # pydantic checks it
            requested=run.requested,
            sent=run.sent,
            succeeded=run.succeeded,
            failed=run.failed,
            pool=list(run.pool),
            distinct_urls=run.distinct_urls,
            started_at=_time_text(run.started_at),
            finished_at=_time_text(run.finished_at),
            requests_per_second=run.requests_per_second,
            latency_ms=Latencies(**run.latency_ms) if run.latency_ms else None,
            error=run.error,
        )


class TestRuns(BaseModel):
    """Test runs, newest first."""

    __test__ = False

    runs: list[TestRun]


class SizeConverter(BaseConverter):
    """One segment, whatever it holds, other than the one that names the runs."""

    regex = r"(?!runs/)[^/]+"


class StartPath(BaseModel):
    """How many requests a run sends."""

    # Taken as text, so that whatever stands there gets the same answer: a 422 that names it.
    n: str = Field(
        description="Requests to send: 1 to HITLEDGER_TEST_MAX_REQUESTS.",
        json_schema_extra={"type": "integer", "minimum": 1, "example": 20},
    )


class RunPath(BaseModel):
    """Which run."""

    id: str = Field(description="The run's id.")


class ListQuery(BaseModel):
    """How many runs to list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(100, ge=1, le=1000, description="Most runs to list.")


class NoQuery(BaseModel):
    """No parameters at all."""

    model_config = ConfigDict(extra="forbid")


class PreferHeader(BaseModel):
    """How long to wait for the run's end (RFC 7240)."""

    prefer: str | None = Field(
        None, alias="Prefer", description="`wait=<seconds>`, 0 to 60 (10 without it), or `respond-async`."
    )


@dataclass(frozen=True)
class Preferences:
    """What a `Prefer` header asks for (RFC 7240); whatever else it holds is ignored, as the RFC says."""

    wait_seconds: int | None = None
    respond_async: bool = False

    @classmethod
    def read(cls, header: str) -> Preferences:
        """Read the header. The first of several of a name counts; a wait beyond a minute becomes one."""
        found: dict[str, str] = {}
        for preference in header.split(","):
            name, _, value = preference.partition(";")[0].partition("=")
            found.setdefault(name.strip().lower(), value.strip().strip('"'))
        wait = found.get("wait", "")
        seconds = min(int(wait), MOST_WAIT_SECONDS) if re.fullmatch(r"[0-9]{1,9}", wait) else None
        return cls(seconds, "respond-async" in found)

    @property
    def seconds(self) -> int:
        """How long to wait."""
        if self.wait_seconds is not None:
            return self.wait_seconds
        return 0 if self.respond_async else DEFAULT_WAIT_SECONDS

    def applied(self, *, waited: bool) -> str:
        """Return what `Preference-Applied` says; `waited` is false where nobody more could wait."""
        words = ["respond-async"] if self.respond_async else []
        if self.wait_seconds is not None and waited:
            words.append(f"wait={self.wait_seconds}")
        return ", ".join(words)


class WaitingRoom:
    """Room for as many waiting requests as leave at least half of the threads free."""

    def __init__(self, threads: int) -> None:
        self._places = threading.Semaphore(min(threads // 2, MOST_WAITING))

    @contextmanager
    def place(self) -> Iterator[bool]:
        """Tell whether there is a place, and keep it until the end of the block."""
        has_place = self._places.acquire(blocking=False)
        try:
            yield has_place
        finally:
            if has_place:
                self._places.release()


def runs_api(services: Services) -> APIBlueprint:
    """Return the endpoints of test runs."""
    blueprint = APIBlueprint("runs", __name__, url_prefix="/test")
    runs = services.runs
    room = WaitingRoom(services.settings.threads)

    @blueprint.post(
        "/<size:n>/",
        responses={200: TestRun, 202: TestRun, 422: Problem, 429: Problem, 503: Problem},
        summary="Send n GET requests to the service itself, each to a random URL",
        description="200 when the run ended while the request waited for it; its hits are then in `/stats/`. "
        "202 when it goes on; `Location` says where to follow it.",
    )
    def start(path: StartPath, query: NoQuery, header: PreferHeader) -> Response:
        del query
        preferences = Preferences.read(header.prefer or "")
        run_id = start_run(services, path.n)
        with room.place() as waits:
            run = runs.wait(run_id, preferences.seconds if waits else 0)
        if run is None:
            problem(503, "The ledger has forgotten the run.", {"Retry-After": str(RETRY_AFTER_SECONDS)})
        response = _json(TestRun.of(run), 200 if run.ended and _post_now(services) else 202)
        if response.status_code == 202:
            response.headers["Location"] = f"/test/runs/{run_id}/"
        if applied := preferences.applied(waited=waits):
            response.headers["Preference-Applied"] = applied
        return response

    @blueprint.get("/runs/", responses={200: TestRuns, 422: Problem, 503: Problem}, summary="Test runs, newest first")
    def list_runs(query: ListQuery) -> Response:
        return _json(TestRuns(runs=[TestRun.of(run) for run in runs.list(query.limit)]), 200)

    @blueprint.get("/runs/<id>/", responses={200: TestRun, 404: Problem, 503: Problem}, summary="One test run")
    def get_run(path: RunPath) -> Response:
        return _json(TestRun.of(_found(runs.get(path.id))), 200)

    @blueprint.delete(
        "/runs/<id>/",
        responses={202: TestRun, 404: Problem, 409: Problem, 503: Problem},
        summary="Cancel a test run; it ends within about a second",
    )
    def cancel(path: RunPath) -> Response:
        return _json(TestRun.of(cancel_run(services, path.id)), 202)

    return blueprint


def start_run(services: Services, text: str) -> str:
    """Start a run of as many requests as a text says, and return its id; else answer with a problem."""
    requests = _read_requests(text, services.settings.test_max_requests)
    try:
        return services.runs.start(requests)
    except (RunUnavailableError, LedgerError) as error:
        # The hint is for operators; a message of ours about the queue holds no address.
        log.warning("No test run was started: %s", error)
        reason = error.message if isinstance(error, RunUnavailableError) else "The ledger cannot be used now."
        problem(503, f"No test run was started. {reason}", {"Retry-After": str(RETRY_AFTER_SECONDS)})


def cancel_run(services: Services, run_id: str) -> Run:
    """Have a run end early and return it; else answer with a problem."""
    run = _found(services.runs.get(run_id))
    if not run.ended:
        return _found(services.runs.cancel(run_id))
    if run.status != CANCELLED:
        problem(409, f"The run has ended: it is {run.status}.")
    return run


def _read_requests(text: str, most: int) -> int:
    number = int(text) if re.fullmatch(r"[0-9]{1,10}", text) else 0
    if not 1 <= number <= most:
        problem(422, f"n is how many requests to send: a whole number from 1 to {most:,}.", parameter="n")
    return number


def _post_now(services: Services) -> bool:
    """Bring the run's hits into the ledger; False where it is away: they follow when it is back."""
    try:
        services.counter.post_now()
    except LedgerError:
        return False
    return True


def _found(run: Run | None) -> Run:
    if run is None:
        problem(404, "There is no such test run, or not any more.")
    return run


def _time_text(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(content: BaseModel, status: int) -> Response:
    response = Response(content.model_dump_json() + "\n", status, mimetype="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response
