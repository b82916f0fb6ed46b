"""Where commands with `--url` look: the ledger itself, or a service over HTTP, with the same answers.

Over HTTP they use the public API alone; that service counts these requests, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPException, HTTPResponse
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

from hitledger.embedded import with_ledger
from hitledger.errors import HitledgerError, QueryError, ServiceError
from hitledger.ledger import LedgerStore
from hitledger.posting import Poster
from hitledger.report import Query, Reports
from hitledger.report.export import ENDS
from hitledger.settings import Settings
from hitledger.testrun.runs import Runs
from hitledger.web.runs import TestRun

ANSWER_SECONDS = 15
PIECE_BYTES = 2**18
BROKEN_OFF = "With --output, --resume goes on."


@dataclass(frozen=True)
class View:
    """One look at the counts: rows are names and requests, most requested first.

    `part_requests` are those of the section that was asked for, of all without one; `row_count`
    says how many rows there are in all, where that is known.
    """

    as_of: datetime
    total_requests: int
    total_urls: int | None
    rows: list[tuple[str, int]]
    part_requests: int
    row_count: int | None


class Place(Protocol):
    """Where counts are read and test runs started. Every method raises HitledgerError."""

    def look(self, parameters: dict[str, str]) -> View:
        """Return a page of the report; the parameters are those of `/stats/`."""

    def start(self, requests: int) -> dict[str, Any]:
        """Start a test run and return it, as `/test/<n>/` does."""

    def run(self, run_id: str) -> dict[str, Any]:
        """Return a test run."""

    def cancel(self, run_id: str) -> None:
        """Have a test run end early."""


def service_at(url: str) -> ServicePlace:
    """Return the service at a URL, which the settings' token opens. Raises QueryError, SettingsError."""
    return ServicePlace(url, Settings.from_environment().token)


def place_of(url: str | None) -> Place:
    """Return the service at a URL, or the ledger of the settings."""
    return service_at(url) if url else LedgerPlace(with_ledger(Settings.from_environment()))


class LedgerPlace:
    """The ledger of the settings; this host's journal is posted before each look."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        store = LedgerStore(settings)
        self._poster = Poster(settings, store)
        self._reports = Reports(store, settings)
        self._runs = Runs(settings, store)

    def look(self, parameters: dict[str, str]) -> View:
        """Return a page of the report."""
        self._poster.post_now()
        page = self._reports.page(Query.read(parameters))
        names, hits = page.flat[:: page.width], page.flat[1 :: page.width]
        rows = list(zip(names, map(int, hits), strict=True))
        part = page.section.requests if page.section else page.total_requests
        count = None if page.cursor else len(rows)
        return View(page.as_of, page.total_requests, page.total_urls, rows, part, count)

    def start(self, requests: int) -> dict[str, Any]:
        """Start a test run."""
        most = self._settings.test_max_requests
        if requests > most:
            raise QueryError("N", f"takes a whole number from 1 to {most:,}.")
        return self.run(self._runs.start(requests))

    def run(self, run_id: str) -> dict[str, Any]:
        """Return a test run."""
        found = self._runs.get(run_id)
        if found is None:
            raise ServiceError("The ledger has forgotten the test run.")
        return TestRun.of(found).model_dump()

    def cancel(self, run_id: str) -> None:
        """Have a test run end early."""
        self._runs.cancel(run_id)


class ServicePlace:
    """A service, over HTTP."""

    def __init__(self, url: str, token: str | None = None) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise QueryError("--url", "takes the address of a service, such as http://localhost:5000.")
        self._url = url.rstrip("/")
        self._token = token

    def page(self, parameters: dict[str, str]) -> dict[str, Any]:
        """Return a page of the report, as `/stats/` answers it."""
        return self._ask("GET", "/stats/?" + urlencode(parameters))

    def exported(self, parameters: dict[str, str]) -> Iterator[bytes]:
        """Yield what `/stats/export` streams, in pieces; raises ServiceError where it breaks off."""
        end = expected = ENDS[parameters["format"]]
        with self._open("GET", "/stats/export?" + urlencode(parameters)) as answer:
            try:
                while piece := answer.read(PIECE_BYTES):
                    yield piece
                    end = (end + piece)[-len(expected) :]
            except (OSError, HTTPException) as error:
                raise ServiceError(f"The export broke off: {error}", BROKEN_OFF) from None
        if end != expected:
            raise ServiceError("The export broke off.", BROKEN_OFF)

    def audited(self) -> dict[str, Any]:
        """Have the service audit, and return its report once it is made; blanks come meanwhile."""
        with self._open("GET", "/audit/") as answer:
            try:
                report = json.load(answer)
                if {"balance", "differences", "shards", "sections", "journals"} <= report.keys():
                    return dict(report)
            except (OSError, HTTPException, ValueError, AttributeError):
                raise ServiceError("The audit broke off.", "The service's log says why.") from None
        raise ServiceError(f"{self._url} does not answer as hitledger does.", "")

    def look(self, parameters: dict[str, str]) -> View:
        """Return a page of the report."""
        content = self.page(parameters)
        try:
            named = "sections" if "sections" in content else "urls"
            rows = [(str(row[named[:-1]]), int(row["requests"])) for row in content[named]]
            as_of = datetime.fromisoformat(content["as_of"])
            total = int(content["total_requests"])
            part = int(content.get("section", {}).get("requests", total))
            count = None if content["next"] else len(rows)
            return View(as_of, total, content["total_urls"], rows, part, count)
        except (KeyError, TypeError, ValueError):
            raise ServiceError(f"{self._url} does not answer as hitledger does.", "") from None

    def start(self, requests: int) -> dict[str, Any]:
        """Start a test run."""
        return self._ask("POST", f"/test/{requests}/")

    def run(self, run_id: str) -> dict[str, Any]:
        """Return a test run."""
        return self._ask("GET", f"/test/runs/{run_id}/")

    def cancel(self, run_id: str) -> None:
        """Have a test run end early."""
        self._ask("DELETE", f"/test/runs/{run_id}/")

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        with self._open(method, path) as answer:
            try:
                content = json.load(answer)
            except (OSError, HTTPException, ValueError) as error:
                raise self._no_answer(error) from None
        if not isinstance(content, dict):
            raise ServiceError(f"{self._url} does not answer as hitledger does.", "")
        return content

    @contextmanager
    def _open(self, method: str, path: str) -> Iterator[HTTPResponse]:
        headers = {"Accept": "application/json", "Prefer": "respond-async"}
        request = Request(self._url + path, method=method, headers=headers)  # noqa: S310 - the scheme is checked
        if self._token:
            # Not for whomever the service might send us on to.
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        try:
            answer = urlopen(request, timeout=ANSWER_SECONDS)  # noqa: S310
        except HTTPError as error:
            raise ServiceError(_detail(error), "") from None
        except (OSError, HTTPException) as error:
            raise self._no_answer(error) from None
        with answer:
            yield answer

    def _no_answer(self, error: Exception) -> ServiceError:
        reason = getattr(error, "reason", error)
        if isinstance(reason, OSError):
            return ServiceError(
                f"{self._url} does not answer: {reason.strerror or reason}.", "Is a service running there?"
            )
        return ServiceError(f"{self._url} does not answer as hitledger does: {reason}", "")


def _detail(error: HTTPError) -> str:
    try:
        return str(json.load(error)["detail"])
    except (HitledgerError, OSError, ValueError, KeyError, TypeError):
        return f"The service answers {error.code} {error.reason}."
