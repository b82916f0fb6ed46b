"""sectionaudit: sections that posting keeps agree with the URLs, and whatever is put wrong in them is named."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from hitledger import sectionaudit, tree
from hitledger.audit import AuditReport, audit
from hitledger.ledger import LedgerStore
from hitledger.sectionaudit import audit_sections
from hitledger.settings import Settings
from tests.report_support import book
from tests.support import wait_until

NOW = datetime.now(UTC)
COUNTS = {
    "/a/b": 3, "/a/c": 5, "/a/": 7, "/a/d/": 2, "/a/d/e": 4, "/": 1, "%2A": 6, "a/b": 2, "/d/" + "x/" * 12: 8, "//": 9,
    "/d/" + "x/" * 12 + "y": 10, "(unmatched)": 11,
}  # fmt: skip


@pytest.fixture
def ours(settings: Settings) -> Settings:
    """Settings with which a ledger keeps sections."""
    return replace(settings, shards=1, keep_sections=True)


@pytest.fixture
def kept(ours: Settings) -> LedgerStore:
    """A ledger with counts that keeps its sections."""
    store = LedgerStore(ours)
    for counts in (COUNTS, {"/a/b": 4, "/e/f": 1}):
        book(store, NOW, counts)
    return store


def run(settings: Settings, store: LedgerStore) -> AuditReport:
    """Audit a ledger."""
    return audit(settings, store)


def key_of(store: LedgerStore, *words: str) -> str:
    """Return the key of what the ledger's one shard keeps of sections."""
    return store.sections_key(0, tree.states(store)[0][0], *words)


@pytest.mark.parametrize("shards", [1, 3])
def test_sound_sections_are_in_balance(settings: Settings, shards: int) -> None:
    """Kept from the start or brought to it, at every depth, beside lines: nothing differs, and all is looked at."""
    for from_the_start in (True, False):
        prefix = f"{settings.key_prefix}-{from_the_start}"
        store = LedgerStore(replace(settings, key_prefix=prefix, shards=shards, keep_sections=from_the_start))
        book(store, NOW, COUNTS)
        tree.keep(store)
        book(store, NOW, {"/a/b": 1, "/new/one": 1})
        assert run(settings, store).differences == []
        assert sum(each.urls for each in audit_sections(store)) == len(COUNTS)


def test_a_ledger_without_sections_has_none_to_audit(settings: Settings) -> None:
    """Where none are kept, or are still being put in, the audit says so and finds nothing wrong."""
    store = LedgerStore(replace(settings, shards=1))
    book(store, NOW, COUNTS)
    assert [each.state for each in audit_sections(store)] == ["absent"]
    store.change_sections(0, "begin", "17")
    tree.fill(store, 0, "17", ["/a/b"])
    report = run(settings, store)
    assert [each.state for each in report.sections] == ["filling"]
    assert report.differences == []


def test_a_url_with_other_hits_in_its_section_is_named(ours: Settings, kept: LedgerStore) -> None:
    """Two that were changed so that all sums agree are found, each with its difference."""
    kept.reader(0).zincrby(key_of(kept, "under", "/a/"), 1, "/a/b")
    kept.reader(0).zincrby(key_of(kept, "under", "/a/"), -1, "/a/c")
    assert sorted(run(ours, kept).differences) == [
        "shard 0: its section has /a/b with 8 and all URLs with 7: +1",
        "shard 0: its section has /a/c with 4 and all URLs with 5: -1",
    ]


def test_a_section_with_another_total_is_named(ours: Settings, kept: LedgerStore) -> None:
    """Changed in the middle of the tree, it agrees neither with what is below it nor with what is above."""
    kept.reader(0).zincrby(key_of(kept, "under", "/a/"), 5, "/a/d/")
    assert sorted(run(ours, kept).differences) == [
        "shard 0: the section /a/ has 18 and its children add up to 23: -5",
        "shard 0: the section /a/d/ has 9 and its children add up to 4: +5",
    ]


def test_a_hole_in_the_tree_is_named(ours: Settings, kept: LedgerStore) -> None:
    """Children that vanished, as by eviction, leave a hole below the section; its URLs are named, too."""
    kept.reader(0).delete(key_of(kept, "under", "/e/"))
    assert sorted(run(ours, kept).differences) == [
        "shard 0: its section has /e/f with 0 and all URLs with 1: -1",
        "shard 0: the section /e/ has 1 and its children add up to 0: +1",
    ]


def test_a_wrong_number_of_urls_is_named(ours: Settings, kept: LedgerStore) -> None:
    """A section that says that it has a URL more disagrees with its children, and the one above with it."""
    kept.reader(0).hincrby(key_of(kept), "/a/d/", 1)
    assert sorted(run(ours, kept).differences) == [
        "shard 0: the section /a/ has a number of URLs of 4 and its children of 5: -1",
        "shard 0: the section /a/d/ has a number of URLs of 2 and its children of 1: +1",
    ]


def test_only_so_many_differences_are_named(ours: Settings, kept: LedgerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all of it is wrong, the first ones are named and the others counted."""
    monkeypatch.setattr(sectionaudit, "MOST_NAMED", 2)
    for name in ("/a/b", "/a/c", "/a/d/"):
        kept.reader(0).zincrby(key_of(kept, "under", "/a/"), 1, name)
    differences = run(ours, kept).differences
    assert len(differences) == 3
    assert differences[-1] == "shard 0: 2 more differences in its sections"


@pytest.mark.slow
def test_a_live_ledger_is_in_balance(ours: Settings, kept: LedgerStore) -> None:
    """While hits on known and new URLs are posted all the time, no audit finds a difference."""
    is_over, rounds = threading.Event(), 0
    posting = LedgerStore(ours)

    def post() -> None:
        nonlocal rounds
        while not is_over.is_set():
            rounds += 1
            book(posting, NOW, {f"/a/{number % 13}/{number % 7}": 1 for number in range(rounds, rounds + 50)})

    thread = threading.Thread(target=post)
    thread.start()
    try:
        for _ in range(5):
            before = rounds
            assert run(ours, kept).differences == []
            assert wait_until(lambda: rounds > before)  # noqa: B023 - asked at once
    finally:
        is_over.set()
        thread.join()
