"""audit: the books agree, and whatever is put wrong in them is named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from hitledger import journal
from hitledger.audit import AuditReport, audit
from hitledger.host import Host
from hitledger.periods import KINDS, Period
from hitledger.settings import Settings
from tests.books import Books


@pytest.fixture(params=[1, 3], ids=["one shard", "three shards"])
def books(settings: Settings, request: pytest.FixtureRequest) -> Iterator[Books]:
    """Books with some hits posted, some pending, and a file gone its whole way."""
    books = Books(replace(settings, shards=request.param, journal_hold_seconds=0))
    books.note(*[b"/%d" % (number % 17) for number in range(100)])
    books.journal.close()
    books.poster.round()
    books.poster.round()
    books.note(*[b"/%d" % (number % 17) for number in range(30)])
    books.journal.append(journal.UNMATCHED_KIND, b"")
    books.poster.post_now()
    books.note(b"/pending", b"/pending")
    yield books
    books.close()


def run(books: Books) -> AuditReport:
    """Audit books."""
    return audit(books.settings, books.store)


def test_sound_books_are_in_balance(books: Books) -> None:
    """Posted and pending add up to what was received, and no sum differs."""
    report = run(books)
    assert report.differences == []
    assert report.balance == {"received": 133, "posted": 131, "pending": 2, "refused": 0, "lost": 0}
    assert sorted(each.state for each in report.journals) == ["deleted after its hold", "in use"]


def test_hits_that_arrive_meanwhile_make_no_difference(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy host's file grows between any two looks at it, and its books are in balance all the same."""

    class BusyHost(Host):
        """A machine on which hits are journalled whenever somebody looks."""

        def open(self, *words: Any, **options: Any) -> int:
            books.note(b"/meanwhile", b"/meanwhile")
            return os.open(*words, **options)

    monkeypatch.setattr("hitledger.audit.Host", BusyHost)
    report = run(books)
    assert report.differences == []
    assert report.balance["pending"] > 2


def test_a_count_that_was_changed_by_hand_is_named(books: Books) -> None:
    """One hit more on one URL: the shard is named, with the difference."""
    books.store.reader(0).zincrby(books.store.set_key(0), 1, "/forged")
    (difference,) = run(books).differences
    assert difference.startswith("shard 0:")
    assert difference.endswith("+1")


def test_a_route_that_was_changed_by_hand_is_named(books: Books) -> None:
    """One hit more on one route: the shard is named, with the difference."""
    books.store.reader(0).zincrby(books.store.routes_key(0), 1, "/<forged>/")
    (difference,) = run(books).differences
    assert difference.startswith("shard 0: of ")
    assert difference.endswith("+1")


@pytest.mark.usefixtures("one_hour")
@pytest.mark.parametrize("kind", ["hour", "day", "month"])
def test_routes_of_a_period_that_were_changed_are_named(books: Books, kind: str) -> None:
    """A hit more on a route, or fewer hits in all than have one: the shard and the period are named."""
    assert books.journal.append(journal.PATH, b"/a", 3, b"/<a>")
    books.poster.post_now()
    report = run(books)
    assert report.differences == []
    (shard,) = (each.shard for each in report.routes if books.store.books(each.shard).routed)
    assert report.routes[shard].periods >= len(KINDS)
    period, client = Period.containing(kind, datetime.now(UTC)), books.store.reader(shard)
    client.zincrby(books.store.routes_key(shard, period), 2, "/<a>")
    (difference,) = run(books).differences
    assert difference.startswith(f"shard {shard}: of ")
    assert f"the {kind} {period.name} 3 have a route and its routes add up to 5: +2" in difference
    client.hincrby(books.store.totals_key(shard, period), "routed", 2)
    assert run(books).differences == []
    client.hset(books.store.totals_key(shard, period), "requests", 4)
    (difference,) = run(books).differences
    assert difference.startswith(f"shard {shard}: of 4 hits of the {kind}")


def test_a_url_that_was_removed_is_named(books: Books) -> None:
    """A URL that vanished, as by eviction, leaves a hole that is seen."""
    client = books.store.reader(0)
    url = str(client.zrange(books.store.set_key(0), 0, 0)[0])
    hits = client.zscore(books.store.set_key(0), url)
    assert hits
    client.zrem(books.store.set_key(0), url)
    (difference,) = run(books).differences
    assert difference.endswith(f"{-int(hits):+,}")


def test_a_total_that_was_changed_is_named(books: Books) -> None:
    """A total that moved alone disagrees with both other sums."""
    books.store.reader(0).hincrby(books.store.totals_key(0), "requests", 5)
    assert len(run(books).differences) == 2


def test_a_watermark_that_vanished_is_named(books: Books) -> None:
    """Without its watermark a journal's hits are in the counts and in nobody's books."""
    (path,) = books.files()
    books.store.reader(0).hdel(books.store.watermarks_key(0), path.stem)
    assert run(books).differences


def test_a_record_that_was_skipped_is_named(books: Books) -> None:
    """A watermark beyond records that were never booked is a difference of this journal."""
    (path,) = books.files()
    marks = books.store.watermarks([path.stem])[path.stem]
    mark = marks[0]
    assert mark
    key = books.store.watermarks_key(0)
    books.store.reader(0).hset(key, path.stem, replace(mark, hits=mark.hits - 1).encode())
    differences = run(books).differences
    assert any(line.startswith(f"journal {path.stem}") and "+1 hits" in line for line in differences)


def test_losses_and_refusals_are_in_the_balance(books: Books) -> None:
    """What a process could not journal is lost, what was set aside is refused, and it all adds up."""
    path = books.lose(7)
    copy = path.with_name("0" * 16 + "-" + "0" * 32 + ".quarantined")
    copy.write_bytes(path.read_bytes())
    books.poster.post_now()
    report = run(books)
    assert report.differences == []
    assert report.balance == {"received": 173, "posted": 133, "pending": 0, "refused": 33, "lost": 7}


def test_reset_starts_anew_and_nothing_comes_back(books: Books) -> None:
    """After a reset the counts are empty, periods too, and what was posted is not posted again."""
    books.poster.post_now()
    assert books.store.reset() == 133
    fresh = Books(books.settings)
    fresh.poster.round()
    assert fresh.counts() == {}
    assert fresh.store.totals().requests == 0
    assert not [key for key in fresh.store.reader(0).scan_iter(fresh.store.key("*")) if ":hour:" in str(key)]
    books.note(b"/new")
    books.poster.post_now()
    assert books.counts() == {"/new": 1}
    report = run(books)
    assert report.differences == []
    assert report.balance["posted"] == 1
    fresh.close()
