"""ledger: one script call books a batch once, or changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitledger.entries import Batch, Hits, Watermark, most_urls_of, shard_of
from hitledger.errors import LedgerError, LedgerMismatchError, LedgerUnavailableError
from hitledger.host import Host
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
from tests.books import counts_of
from tests.support import Valkey

JOURNAL = "00066" + "0" * 11 + "-" + "a" * 32
HOUR = int(Host.now()) // 3600
Dump = Callable[[], dict[str, object]]


def batch(start: Watermark | None = None, end: int = 300, **urls: int) -> Batch:
    """Return a batch with hits by URL name, for a watermark at `start`."""
    hits = (start.hits if start else 0) + sum(urls.values())
    wanted = Watermark(end, hits, 7)
    return Batch(0, JOURNAL, start, wanted, {HOUR: Hits({f"/{name}": count for name, count in urls.items()})})


def routed(each: Batch, **routes: int) -> Batch:
    """Return the batch with hits by route name."""
    hits = replace(each.hits[HOUR], routes={f"/<{name}>/": count for name, count in routes.items()})
    return replace(each, hits={HOUR: hits})


@pytest.fixture
def opened(store: LedgerStore) -> LedgerStore:
    """A ledger with one shard, made."""
    store.open()
    return store


@pytest.fixture
def dump(opened: LedgerStore, valkey: Valkey) -> Dump:
    """What returns every key of the ledger with what is in it, which takes an administrator."""
    client = valkey.client
    return lambda: {str(key): client.dump(key) for key in client.scan_iter(opened.key("*"))}


def post(store: LedgerStore, *batches: Batch) -> list[str]:
    """Post batches one after the other and return the script's words."""
    return [store.post([each])[0].word for each in batches]


def test_a_batch_is_booked_once(opened: LedgerStore) -> None:
    """The same batch again is a duplicate: its counts are in, and it writes the watermark once more."""
    assert post(opened, batch(a=2, b=1), batch(a=2, b=1)) == ["posted", "duplicate"]
    assert counts_of(opened) == {"/a": 2, "/b": 1}
    assert opened.totals().requests == 3


def test_a_batch_from_elsewhere_changes_nothing(opened: LedgerStore, dump: Dump) -> None:
    """A batch that begins where the watermark does not stand is turned away with the watermark as it is."""
    first = batch(a=1)
    post(opened, first)
    before = dump()
    stale = batch(None, 400, a=5)
    ahead = batch(Watermark(350, 1, 7), 400, a=5)
    for each in (stale, ahead):
        outcome = opened.post([each])[0]
        assert (outcome.word, outcome.watermark) == ("elsewhere", first.wanted)
    assert dump() == before


def test_a_stranger_changes_nothing(opened: LedgerStore, dump: Dump) -> None:
    """A shard that belongs to another ledger, or to none, takes nothing."""
    opened.reader(0).hset(opened.totals_key(0), "ledger", "other")
    before = dump()
    assert post(opened, batch(a=1)) == ["stranger"]
    assert dump() == before


@pytest.mark.parametrize("key", ["totals", "watermarks", "all", "hour", "hour totals", "routes", "hour routes"])
def test_a_key_of_the_wrong_type_stops_all_of_it(opened: LedgerStore, dump: Dump, key: str) -> None:
    """Whichever key holds something else, nothing at all is booked, and the error says which."""
    post(opened, routed(batch(a=1), one=1))
    client = opened.reader(0)
    hour = next(str(name) for name in client.scan_iter(opened.key("{0}", "hour:*")))
    name = {
        "totals": opened.totals_key(0),
        "watermarks": opened.watermarks_key(0),
        "all": opened.set_key(0),
        "hour": hour,
        "hour totals": hour.replace(":hour:", ":totals:hour:"),
        "routes": opened.routes_key(0),
        "hour routes": hour.replace(":hour:", ":routes:hour:"),
    }[key]
    client.delete(name)
    client.set(name, "text")
    before = dump()
    (outcome,) = opened.post([routed(batch(Watermark(300, 1, 7), 400, a=1), one=1)])
    assert outcome.word == "unknown"
    assert name in str(outcome.error)
    assert dump() == before


def test_a_shard_counts_exactly_to_the_last_number_it_can(opened: LedgerStore) -> None:
    """At 2^53 hits a shard refuses whole batches instead of losing single hits."""
    most = 2**53 - 1
    first = batch(a=most - 1)
    assert post(opened, first) == ["posted"]
    assert post(opened, batch(first.wanted, 400, a=2)) == ["unknown"]
    assert post(opened, batch(first.wanted, 400, a=1)) == ["posted"]
    assert counts_of(opened) == {"/a": most}
    assert opened.totals().requests == most


def test_routes_are_booked_with_their_hits(opened: LedgerStore) -> None:
    """Hits whose route is known are on it in every period, once, beside those that have none."""
    first = routed(batch(a=2, b=1), one=2)
    assert post(opened, first, first, batch(first.wanted, 400, c=5)) == ["posted", "duplicate", "posted"]
    client = opened.reader(0)
    keys = [str(key) for key in client.scan_iter(opened.key("{0}", "*")) if ":routes" in str(key)]
    assert sorted(key.split(":")[3:4] for key in keys) == [[], ["day"], ["hour"], ["month"]]
    for key in keys:
        assert client.zrange(key, 0, -1, withscores=True) == [("/<one>/", 2.0)]
        assert client.hget(key.replace(":routes", ":totals"), "routed") == "2"
        assert (client.ttl(key) == -1) == (key == opened.routes_key(0))
    assert opened.totals().requests == 8


def test_a_batch_with_more_routes_than_hits_changes_nothing(opened: LedgerStore, dump: Dump) -> None:
    """A batch that contradicts itself is refused whole."""
    before = dump()
    assert post(opened, routed(batch(a=2), one=2, two=1)) == ["unknown"]
    assert dump() == before


def test_a_reset_drops_routes_too(opened: LedgerStore) -> None:
    """After a reset no route is left, and the books agree."""
    post(opened, routed(batch(a=2), one=1))
    assert opened.reset() == 2
    assert not list(opened.reader(0).scan_iter(opened.key("{0}", "routes*")))
    assert opened.books(0).routed == 0


def test_a_period_whose_time_is_over_is_not_kept(store: LedgerStore) -> None:
    """A hit from long ago counts for all time, and leaves no key of an expired period behind."""
    store.open()
    old = Batch(0, JOURNAL, None, Watermark(300, 1, 7), {100_000: Hits({"/a": 1})})
    assert post(store, old) == ["posted"]
    assert counts_of(store) == {"/a": 1}
    assert not list(store.reader(0).scan_iter(store.key("{0}", "hour:*")))


def test_shards_differ_in_fate(settings: Settings) -> None:
    """One shard's refusal leaves the others' batches booked."""
    store = LedgerStore(replace(settings, shards=2))
    store.open()
    store.reader(0).hset(store.totals_key(1), "ledger", "other")
    outcomes = store.post([batch(a=1), replace(batch(b=1), shard=1)])
    assert [outcome.word for outcome in outcomes] == ["posted", "stranger"]
    store.close()


def test_confirmed_means_on_the_disk(opened: LedgerStore) -> None:
    """With its file synced always the ledger confirms; for a watermark it does not have it never does."""
    first = batch(a=1)
    post(opened, first)
    assert opened.confirm(JOURNAL, [first.wanted])
    assert not opened.confirm(JOURNAL, [Watermark(999, 1, 7)])
    assert not opened.confirm(JOURNAL, [first.wanted], replicas=1)


def test_what_is_not_on_the_disk_is_not_confirmed(opened: LedgerStore, valkey: Valkey) -> None:
    """A batch that was on the disk is written again to be confirmed, and waited for on the same connection."""
    first = batch(a=1)
    post(opened, first)
    valkey.client.config_set("appendfsync", "no")
    try:
        assert not opened.confirm(JOURNAL, [first.wanted])
    finally:
        valkey.client.config_set("appendfsync", "always")
    assert opened.confirm(JOURNAL, [first.wanted])


def test_a_lost_reply_is_not_asked_for_again(settings: Settings, valkey: Valkey) -> None:
    """Posting never repeats a command by itself: an outcome that nobody knows is told as that."""
    with valkey.proxy() as proxy:
        store = LedgerStore(replace(settings, redis_url=proxy.url))
        store.open()
        post(store, batch(a=1))
        proxy.lose_replies("EVALSHA", times=1)
        second = batch(Watermark(300, 1, 7), 400, a=1)
        assert post(store, second, second) == ["unknown", "duplicate"]
        assert counts_of(store) == {"/a": 2}
        store.close()


def test_a_ledger_keeps_its_shards(settings: Settings) -> None:
    """A process that asks for other shards than the ledger has is told so; one that asks for none takes them."""
    LedgerStore(replace(settings, shards=3)).open()
    assert LedgerStore(settings).open().shards == 3
    with pytest.raises(LedgerMismatchError, match="has 3 shards and HITLEDGER_SHARDS asks for 4"):
        LedgerStore(replace(settings, shards=4)).open()


def test_a_format_of_the_future_is_refused(opened: LedgerStore, settings: Settings) -> None:
    """A ledger that a newer version made is left alone."""
    opened.reader(0).hset(opened.key("meta"), "format", "2")
    with pytest.raises(LedgerMismatchError, match="format '2'"):
        LedgerStore(settings).open()


def test_counts_of_nobody_are_not_taken_over(settings: Settings, valkey: Valkey) -> None:
    """Keys that look like counts without a ledger are no ledger."""
    valkey.client.zadd(f"{settings.key_prefix}:{{0}}:all", {"/a": 1})
    with pytest.raises(LedgerMismatchError, match="another ledger"):
        LedgerStore(settings).open()


def test_a_lost_meta_hash_is_made_again(opened: LedgerStore, settings: Settings) -> None:
    """Where only the meta hash is gone, the shards still know which ledger they are of."""
    known = opened.identity
    opened.reader(0).delete(opened.key("meta"))
    assert LedgerStore(settings).open().id == known.id


@pytest.fixture
def evicting(valkey: Valkey) -> Iterator[None]:
    """The server, for one test, with an eviction policy."""
    valkey.client.config_set("maxmemory-policy", "allkeys-lru")
    yield
    valkey.client.config_set("maxmemory-policy", "noeviction")


@pytest.mark.usefixtures("evicting")
def test_a_server_that_evicts_is_refused(settings: Settings) -> None:
    """Eviction would make counts vanish in silence: no ledger is opened there."""
    with pytest.raises(LedgerMismatchError, match="maxmemory-policy"):
        LedgerStore(settings).open()


def test_a_server_that_is_not_there_is_away(settings: Settings) -> None:
    """Nothing at the address is no crash and no mismatch: it may come."""
    store = LedgerStore(replace(settings, redis_url="redis://user:sesame@127.0.0.1:1"))
    with pytest.raises(LedgerUnavailableError) as caught:
        store.open()
    assert "sesame" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)


def test_a_watermark_that_is_none_is_named(opened: LedgerStore) -> None:
    """A watermark that cannot be read stops posting of its file with its text, not with a crash."""
    opened.reader(0).hset(opened.watermarks_key(0), JOURNAL, "nonsense")
    with pytest.raises(LedgerError, match="nonsense"):
        opened.watermarks([JOURNAL])


@given(st.integers(0, 2**53), st.integers(0, 2**53), st.integers(0, 2**32 - 1), st.integers(0, 9), st.integers(0, 9))
def test_a_watermark_is_read_as_it_was_written(offset: int, hits: int, crc: int, lost: int, damaged: int) -> None:
    """Encoding a watermark loses nothing."""
    mark = Watermark(offset, hits, crc, lost, damaged)
    assert Watermark.decode(mark.encode()) == mark


@given(st.integers(1, 1024), st.integers(1, 10**9))
def test_the_parts_of_the_cap_add_up(shards: int, most: int) -> None:
    """Shared among shards, the cap on distinct URLs is still the cap."""
    assert sum(most_urls_of(shard, shards, most) for shard in range(shards)) == most


def test_a_url_stays_in_its_shard() -> None:
    """The hash that places URLs never changes: a ledger would fall apart."""
    assert [shard_of(url, 64) for url in ("/", "/api/one/", "/api/one", "(unmatched)")] == [20, 17, 52, 13]
