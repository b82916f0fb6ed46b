"""The balance on the pages: the same sums as the audit's, in hits, from what is cheap to ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hitledger.audit import audit
from hitledger.counting import HitCounter
from hitledger.journal import PATH
from hitledger.ledger import LedgerStore
from hitledger.report import Reports
from hitledger.settings import Settings
from hitledger.testrun.runs import Runs
from hitledger.web.balance import Balances
from hitledger.web.services import Services


@pytest.fixture
def services(settings: Settings) -> Iterator[Services]:
    """A service without its web, whose background does not post."""
    store = LedgerStore(settings)
    counter = HitCounter(settings, store)
    yield Services(settings, store, counter, Reports(store, settings), Runs(settings, store))
    counter.journal.close()
    counter.poster.close()
    store.close()


def note(services: Services, times: int) -> None:
    """Journal hits; none is posted before somebody asks for it."""
    journal = services.counter.journal
    journal._on_open = lambda: None
    for _ in range(times):
        assert journal.append(PATH, b"/api/one/")


def test_it_says_what_the_audit_says(services: Services) -> None:
    """Posted, pending, refused, lost and their sum agree with the audit, hit by hit."""
    note(services, 7)
    services.counter.post_now()
    note(services, 5)
    refused = services.settings.journal_dir / f"{'0' * 16}-{'a' * 32}.quarantined"
    (journal,) = services.settings.journal_dir.glob("*.journal")
    refused.write_bytes(journal.read_bytes())
    shown = Balances(services).now(away=False)
    told = audit(services.settings, services.store).balance
    assert (shown.posted, shown.pending, shown.refused) == (7, 5, 12)
    assert shown.state == "wrong"
    assert {name: getattr(shown, name) for name in told} == told
    refused.unlink()


def test_while_the_ledger_is_away_it_goes_on_from_the_last_figures(services: Services) -> None:
    """Never zeros: what was posted stays as it was last known, and what comes in is pending."""
    never = Balances(services).now(away=True)
    assert (never.posted, never.received, never.state) == (None, None, "away")
    note(services, 3)
    services.counter.post_now()
    balances = Balances(services)
    assert balances.now(away=False).posted == 3
    note(services, 2)
    away = balances.now(away=True)
    assert (away.posted, away.pending, away.received, away.state) == (3, 2, 5, "away")
    services.counter.post_now()
    back = balances.now(away=False)
    assert (back.posted, back.pending, back.state) == (5, 0, "good")
