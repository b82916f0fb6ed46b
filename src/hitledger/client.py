"""`hitledger.Ledger`: the reports, for programs and notebooks."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from hitledger.errors import QueryError
from hitledger.ledger import LedgerStore
from hitledger.report.history import History
from hitledger.report.page import (
    ROUTES,
    SECTIONS,
    URLS,
    Page,
    RouteRow,
    Row,
    SectionRow,
    routes_of,
    rows_of,
    sections_of,
)
from hitledger.report.query import ROUTE, Query
from hitledger.report.reports import Reports
from hitledger.report.single import UrlReport
from hitledger.settings import Settings


class Ledger:
    """Read a ledger.

        import pandas
        frame = pandas.DataFrame(Ledger("redis://localhost").rows(period="day"))

    The parameters of reports are those of `GET /stats/`, as keywords: `period`, `at`, `from_`,
    `to`, `tz`, `prefix`, `under`, `group`, `search`. Hits that hosts have journalled and not posted yet
    are not in a report; that is at most their posting interval (100 ms by default).

    What else there is to set, how long counts are kept and where the patterns are among it, is in the
    environment, as for the service: `HITLEDGER_RETENTION_HOURS`, `HITLEDGER_PATTERNS_FILE` and so on.

    Every method raises LedgerUnavailableError where the ledger cannot be reached, QueryError
    for a parameter that is not allowed, and NotKeptError for a time that is not kept.
    """

    def __init__(self, url: str, *, key_prefix: str | None = None) -> None:
        """`url` is what HITLEDGER_REDIS_URL takes. Raises SettingsError for one that is not allowed."""
        given = {"HITLEDGER_REDIS_URL": url} | ({} if key_prefix is None else {"HITLEDGER_KEY_PREFIX": key_prefix})
        settings = Settings.from_environment({**os.environ, **given})
        self._store = LedgerStore(settings)
        directory = tempfile.mkdtemp(prefix="hitledger-")
        # A notebook closes nothing.
        self._clean_up = weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
        self._reports = Reports(self._store, settings, directory=Path(directory))

    def page(self, *, limit: int = 1000, cursor: str | None = None, **parameters: str) -> Page:
        """Return one page, most requested first; `Page.cursor` continues it."""
        texts = _texts(parameters) | {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
        return self._reports.page(Query.read(texts))

    def rows(self, *, in_order: bool = True, **parameters: str) -> Iterator[Row]:
        """Yield all rows, however many; memory stays flat. `sections` and `routes` have what `group` asks for."""
        query = Query.read(_texts(parameters))
        if query.columns != URLS:
            raise QueryError("group", "asks for no URLs: `Ledger.sections` and `Ledger.routes` have the rows.")
        for flat in self._reports.rows(query, in_order=in_order):
            yield from rows_of(flat)

    def sections(self, *, in_order: bool = True, **parameters: str) -> Iterator[SectionRow]:
        """Yield all sections that `under` or `group` asks for, with their totals and numbers of URLs."""
        query = Query.read(_texts(parameters))
        if query.columns != SECTIONS:
            raise QueryError("group", "asks for no sections: `Ledger.rows` has URLs, `Ledger.routes` routes.")
        for flat in self._reports.rows(query, in_order=in_order):
            yield from sections_of(flat)

    def routes(self, **parameters: str) -> Iterator[RouteRow]:
        """Yield all routes, most requested first; `(no route)` is a row, and `(overflow)`, where they have requests."""
        query = Query.read({"group": ROUTE, **_texts(parameters)})
        if query.columns != ROUTES:
            raise QueryError("group", "asks for no routes: `Ledger.rows` has URLs, `Ledger.sections` sections.")
        for flat in self._reports.rows(query):
            yield from routes_of(flat)

    def top(self, limit: int = 10, **parameters: str) -> list[Row]:
        """Return the most requested URLs."""
        return self.page(limit=limit, **parameters).rows

    def url(self, url: str, *, by: str = "day", **times: str) -> UrlReport:
        """Return one URL's total, rank and series by hour, day or month, over what is kept or `from_` ... `to`."""
        return self._reports.url(url, by, _read_times(times))

    def history(self, *, by: str = "day", **times: str) -> History:
        """Return how many requests came in each hour, day or month, over what is kept or `from_` ... `to`."""
        return self._reports.history(by, _read_times(times))

    def total(self) -> int:
        """Return all requests since the ledger began, those under no URL included."""
        return self._store.totals().requests

    def close(self) -> None:
        """Close every connection."""
        self._store.close()
        self._clean_up()

    def __enter__(self) -> Self:
        """Use it as a context that closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


def _texts(parameters: dict[str, str]) -> dict[str, str]:
    return {name.rstrip("_"): str(text) for name, text in parameters.items()}


def _read_times(times: dict[str, str]) -> Query:
    return Query.read(_texts(times), ("from", "to", "tz"))
