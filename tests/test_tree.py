"""tree: the sections that posting keeps equal those that are added up, whatever happens on the way."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from hitledger import tree
from hitledger.entries import MOST_SECTIONS, Batch, Hits, Watermark, path_of
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
from tests.books import counts_of
from tests.report_support import book, with_shards
from tests.support import Valkey

NOW = datetime.now(UTC)
SEGMENTS = st.sampled_from(["a", "b", "%C3%BC", ""])
URLS = st.builds(
    lambda segments, end: "/" + "/".join(segments) + end, st.lists(SEGMENTS, max_size=11), st.sampled_from(["", "/"])
) | st.sampled_from(["%2A", "a/b/c"])
BOOKINGS = st.lists(st.dictionaries(URLS, st.integers(1, 9), max_size=6), max_size=4)
_names = itertools.count()


def fresh(settings: Settings, **changes: object) -> LedgerStore:
    """Return a ledger of its own on the tests' server."""
    prefix = f"{settings.key_prefix}-{next(_names)}"
    return LedgerStore(replace(settings, key_prefix=prefix, **changes))  # type: ignore[arg-type]


def kept(store: LedgerStore) -> tuple[dict[str, Counter[str]], Counter[str]]:
    """Return what all shards keep: children's hits by section, and URLs by section."""
    children: dict[str, Counter[str]] = {}
    numbers: Counter[str] = Counter()
    for shard, (generation, _) in enumerate(tree.states(store)):
        client = store.reader(shard)
        prefix = store.sections_key(shard, generation, "under", "")
        for key in client.scan_iter(store.sections_key(shard, "*")):
            if str(key).startswith(prefix):
                found = {str(name): int(hits) for name, hits in client.zscan_iter(str(key))}
                children.setdefault(str(key).removeprefix(prefix), Counter()).update(found)
        table = client.hgetall(store.sections_key(shard, generation))
        numbers.update({str(name): int(number) for name, number in table.items()})
    return children, numbers


def expected(counts: dict[str, int]) -> tuple[dict[str, Counter[str]], Counter[str]]:
    """Return what a ledger of these counts must keep."""
    children: dict[str, Counter[str]] = {}
    numbers: Counter[str] = Counter()
    for url, hits in counts.items():
        path = path_of(url)
        numbers.update(path)
        for section, child in zip(path[:MOST_SECTIONS], [*path[1:], url], strict=False):
            children.setdefault(section, Counter())[child] += hits
    return children, numbers


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/", [""]), ("", [""]), ("%2A", [""]), ("/a", ["", "/"]), ("/a/", ["", "/"]), ("/a//", ["", "/", "/a/"]),
        ("a/b", ["", "a/"]), ("/" * 20, ["", *("/" * depth for depth in range(1, 9))]),
    ],
)  # fmt: skip
def test_the_sections_of_a_url(url: str, path: list[str]) -> None:
    """They go up to each slash that is not its last character, and are never more than a few."""
    assert path_of(url) == path


@pytest.mark.slow
@examples(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=BOOKINGS, after=BOOKINGS, shards=st.sampled_from([1, 3]), from_the_start=st.booleans())
def test_what_is_kept_equals_what_is_counted(
    settings: Settings, before: list[dict[str, int]], after: list[dict[str, int]], shards: int, from_the_start: bool
) -> None:
    """Kept from the start or brought to an older ledger, every section's children and URLs are those of the counts."""
    store = fresh(settings, shards=shards, keep_sections=from_the_start)
    for counts in before:
        book(store, NOW, counts)
    tree.keep(store)
    for counts in after:
        book(store, NOW, counts)
    assert kept(store) == expected(counts_of(store))
    assert tree.generations(store)


@pytest.mark.slow
@examples(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=BOOKINGS, during=BOOKINGS)
def test_posting_goes_on_while_a_ledger_is_brought_to_have_them(
    settings: Settings, before: list[dict[str, int]], during: list[dict[str, int]]
) -> None:
    """Hits posted between any two steps, on new URLs and on old ones, are in their sections once."""
    store = fresh(settings, shards=1)
    for counts in before:
        book(store, NOW, counts)
    waiting = iter(during)
    generation = store.change_sections(0, "begin", "17").partition(" ")[0]
    for name in counts_of(store):
        book(store, NOW, next(waiting, {}))
        # Each URL alone, and twice: what is in is not put in again.
        for _ in range(2):
            tree.fill(store, 0, generation, [name, name])
    for counts in waiting:
        book(store, NOW, counts)
    assert store.change_sections(0, "finish", generation) == "17 kept"
    assert kept(store) == expected(counts_of(store))


def test_they_are_not_said_to_be_kept_before_all_are_in(settings: Settings) -> None:
    """While one URL is missing, nobody is told that sections are kept."""
    store = fresh(settings, shards=1)
    book(store, NOW, {"/a/b": 1, "/a/c": 1})
    store.change_sections(0, "begin", "17")
    tree.fill(store, 0, "17", ["/a/b"])
    assert store.change_sections(0, "finish", "17") == "17 filling"
    assert tree.generations(store) is None


def test_urls_past_the_cap_are_in_no_section(settings: Settings) -> None:
    """What is booked under (overflow) is not in the sections of the URL that it was."""
    store = fresh(settings, shards=1, keep_sections=True, max_urls=2)
    book(store, NOW, {f"/a/{number}": 1 for number in range(5)})
    book(store, NOW, {"/a/0": 1, "/a/9": 1})
    assert len(counts_of(store)) == 2
    assert kept(store) == expected(counts_of(store))


def test_a_reset_begins_them_anew(settings: Settings) -> None:
    """After a reset nothing of the old sections is left, and new hits are in new ones."""
    store = fresh(settings, shards=2, keep_sections=True)
    book(store, NOW, {"/a/b": 1, "/a/c": 1, "/d/e": 2})
    other = LedgerStore(store._settings)
    book(other, NOW, {"/a/b": 1})
    store.reset()
    assert kept(store) == ({}, Counter())
    for each in (store, other):
        book(each, NOW, {"/a/b": 1, "/x/y": 1})
    assert kept(store) == expected(counts_of(store))


def test_an_emptied_server_has_them_again(settings: Settings) -> None:
    """After FLUSHALL the ledger that is made anew keeps sections, where the settings say so, from its first hit."""
    store = fresh(settings, shards=1, keep_sections=True)
    book(store, NOW, {"/a/b": 1})
    client = store.reader(0)
    client.delete(*client.scan_iter(store.key("*")))
    store.open()
    book(store, NOW, {"/a/c": 3})
    assert kept(store) == expected({"/a/c": 3})


def test_they_can_be_dropped(settings: Settings) -> None:
    """Afterwards there is nothing of them, posting goes on without them, and they can be had again."""
    store = fresh(settings, shards=1, keep_sections=True)
    book(store, NOW, {"/a/b": 1})
    tree.drop(store)
    book(store, NOW, {"/a/b": 1, "/a/c": 1})
    assert not list(store.reader(0).scan_iter(store.sections_key(0, "*")))
    assert tree.generations(store) is None
    tree.keep(store)
    assert kept(store) == expected({"/a/b": 2, "/a/c": 1})


def test_a_key_of_the_wrong_type_stops_all_of_it(settings: Settings, valkey: Valkey) -> None:
    """Whichever key of the sections holds something else, nothing at all is booked."""
    store = fresh(with_shards(settings, 1), keep_sections=True)
    book(store, NOW, {"/a/b": 1})
    ((generation, _),) = tree.states(store)
    client = valkey.client
    for words in ((), ("filled",), ("under", ""), ("under", "/a/")):
        key = store.sections_key(0, generation, *words)
        there = client.dump(key)
        client.delete(key)
        client.set(key, "text")
        hits = Hits({"/a/b": 1})
        batch = Batch(
            0, f"{next(_names):016x}-{'a' * 32}", None, Watermark(100, 1), {int(NOW.timestamp()) // 3600: hits}
        )
        (outcome,) = store.post([batch])
        assert outcome.word == "unknown"
        assert key in str(outcome.error)
        assert counts_of(store) == {"/a/b": 1}
        client.delete(key)
        if there:
            client.restore(key, 0, there)
