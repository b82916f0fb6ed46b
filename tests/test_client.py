"""client: the same reports for programs and notebooks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import hitledger
from hitledger.errors import NotKeptError, QueryError, SettingsError
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
from tests.report_support import book

pytestmark = pytest.mark.usefixtures("one_hour")
COUNTS = {f"/api/{number}/": number for number in range(1, 30)} | {"(unmatched)": 3}


@pytest.fixture
def ledger(settings: Settings, store: LedgerStore) -> hitledger.Ledger:
    """A ledger with counts."""
    book(store, datetime.now(UTC), COUNTS)
    assert settings.redis_url
    return hitledger.Ledger(settings.redis_url, key_prefix=settings.key_prefix)


def test_rows_pages_and_single_urls(ledger: hitledger.Ledger) -> None:
    """All rows, the top, a page with its cursor, one URL and the total say the same counts."""
    with ledger:
        rows = list(ledger.rows())
        assert {row.url: row.requests for row in rows} == {url: n for url, n in COUNTS.items() if url[0] == "/"}
        assert ledger.top(3) == rows[:3]
        page = ledger.page(limit=10)
        assert ledger.page(limit=10, cursor=page.cursor).rows == rows[10:20]
        assert next(row.url for row in ledger.rows(prefix="/api/2", period="day")) == "/api/29/"
        found = ledger.url("/api/29/")
        assert (found.requests, found.rank) == (29, 1)
        assert ledger.total() == sum(COUNTS.values())


def test_sections(ledger: hitledger.Ledger) -> None:
    """Sections come with their totals and numbers of URLs; rows and sections are not taken for each other."""
    with ledger:
        total = sum(n for url, n in COUNTS.items() if url[0] == "/")
        assert list(ledger.sections(group="1")) == [("/api/", total, 29)]
        assert [row.section for row in ledger.sections(under="/api/")][:2] == ["/api/29/", "/api/28/"]
        with pytest.raises(QueryError, match=r"Ledger\.sections"):
            next(ledger.rows(group="1"))
        with pytest.raises(QueryError, match=r"Ledger\.rows"):
            next(ledger.sections(prefix="/api/"))
        with pytest.raises(QueryError, match=r"Page\.sections"):
            ledger.top(group="1")
        with pytest.raises(QueryError, match=r"Page\.rows"):
            _ = ledger.page().routes


def test_series(ledger: hitledger.Ledger) -> None:
    """One URL's series and that of all requests, lines included, cover what is kept or the times that are given."""
    now = datetime.now(UTC)
    start, end = (f"{now + timedelta(days=days):%Y-%m-%d}" for days in (-1, 1))
    with ledger:
        assert sum(point.requests for point in ledger.history().series) == sum(COUNTS.values())
        assert len(ledger.history(by="month", from_=start[:7]).series) in (1, 2)
        found = [point.requests for point in ledger.url("/api/29/", by="hour", from_=start, to=end).series]
        assert sum(found) == 29
        assert sum(point.requests for point in ledger.history(by="hour", from_=start, to=end).series) == ledger.total()
        for wrong in ({"at": start}, {"to": end}, {"from_": end, "to": start}):
            with pytest.raises(QueryError):
                ledger.history(**wrong)


def test_the_environment_says_the_rest(
    settings: Settings, ledger: hitledger.Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the service is told of how long it keeps, of patterns and of the keys' prefix, a program is told as well."""
    del ledger
    patterns = tmp_path / "patterns.toml"
    patterns.write_text('[[pattern]]\nmatch = "/api/*/"\n')
    monkeypatch.setenv("HITLEDGER_KEY_PREFIX", settings.key_prefix)
    monkeypatch.setenv("HITLEDGER_RETENTION_HOURS", "0")
    monkeypatch.setenv("HITLEDGER_PATTERNS_FILE", str(patterns))
    with hitledger.Ledger(str(settings.redis_url)) as told:
        assert [row.section for row in told.sections(group="patterns")] == ["/api/*/"]
        # Of a day's first hour while it runs, the day itself knows as much.
        with pytest.raises(NotKeptError):
            told.page(period="hour", at=f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%dT05}")


def test_bad_parameters_are_named(ledger: hitledger.Ledger) -> None:
    """A mistyped parameter is an error of its own kind, at once."""
    with ledger:
        with pytest.raises(QueryError, match="no parameter"):
            ledger.page(perod="day")
        with pytest.raises(NotKeptError):
            ledger.page(period="hour", at="2001-01-01T00")
    with pytest.raises(SettingsError):
        hitledger.Ledger("localhost")
