"""The ledger's rows, with what this host has journalled beside them.

For each shard, rows, totals, counts of the pending URLs and the watermarks are read at one
moment; what the journal holds behind these watermarks is then added. So a reader sees
every hit of the host without waiting until it is posted, and sees it once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple, Protocol

from hitledger.dispatch import Command
from hitledger.entries import Hits, Totals, Watermark, most_urls_of
from hitledger.ledger import LedgerStore
from hitledger.periods import Period
from hitledger.report.cursor import Place
from hitledger.report.source import Flat, LiveSource, Slice


class PendingHits(Protocol):
    """What is journalled and not posted; `hitledger.pending.Pending` is it."""

    journals: list[str]

    def urls(self, shard: int) -> list[str]:
        """Return the shard's URLs that may have pending hits."""

    def hits(self, shard: int, marks: Sequence[Watermark | None]) -> list[dict[int, Hits]] | None:
        """Return the shard's hits behind these watermarks; None where only posting can tell."""


class OnlyPostingCanTellError(Exception):
    """What is pending cannot be added: post first, and read then."""


class Reading(NamedTuple):
    """What was read of one shard at one moment, and what is pending of it in the period."""

    rows: Flat
    totals: Mapping[str, str]
    urls: int
    scores: Mapping[str, int]
    pending: Hits


class PendingSource(LiveSource):
    """All time or one period, with what is pending. Raises OnlyPostingCanTellError."""

    def __init__(self, store: LedgerStore, pending: PendingHits, most_urls: int, period: Period | None = None) -> None:
        super().__init__(store, period)
        self._pending = pending
        self._most_urls = most_urls
        self._urls = [pending.urls(shard) for shard in range(self.parts)]

    def read(self, slices: Sequence[Slice]) -> list[Flat]:
        """Read slices of shards."""
        return [_rows_with(reading, each) for each, reading in zip(slices, self._readings(slices), strict=True)]

    def read_with_totals(self, slices: Sequence[Slice]) -> tuple[Totals, list[Flat]]:
        """Read one slice of each shard, and the period's totals."""
        readings = self._readings(slices)
        rows = [_rows_with(reading, each) for each, reading in zip(slices, readings, strict=True)]
        return Totals.of(list(chain.from_iterable(map(_totals_with, readings)))), rows

    def _readings(self, slices: Sequence[Slice]) -> list[Reading]:
        commands = [self._commands(each) for each in slices]
        calls = [(each.part, command) for each, some in zip(slices, commands, strict=True) for command in some]
        answers = self._store.read_at_one_moment(calls)
        if answers is None:
            raise OnlyPostingCanTellError
        following = iter(answers)
        return [
            self._reading(each, list(islice(following, len(some)))) for each, some in zip(slices, commands, strict=True)
        ]

    def _commands(self, piece: Slice) -> list[Command]:
        store, shard, urls = self._store, piece.part, self._urls[piece.part]
        key = store.set_key(shard, self._period)
        more = piece._replace(rows=piece.rows + len(urls))  # a pending URL may leave its place
        commands: list[Command] = [
            self._command(more),
            ("HGETALL", store.totals_key(shard, self._period)),
            ("ZCARD", key),
            # It takes no names at all for an error; no journal has this one.
            ("HMGET", store.watermarks_key(shard), *self._pending.journals, ""),
        ]
        if urls:
            commands += [("ZMSCORE", key, *urls), ("ZCARD", store.set_key(shard))]
        return commands

    def _reading(self, piece: Slice, answers: Sequence[Any]) -> Reading:
        rows, totals, count, texts, *more = answers
        scores, all_urls = more or ((), 0)
        marks = [Watermark.decode(text) if text else None for text in texts[:-1]]
        found = self._pending.hits(piece.part, marks)
        if found is None:
            raise OnlyPostingCanTellError
        pending = Hits()
        for hour, hits in chain.from_iterable(table.items() for table in found):
            if self._period is None or self._period.has_hour(hour):
                _add(pending.urls, hits.urls)
                _add(pending.lines, hits.lines)
        room = most_urls_of(piece.part, self.parts, self._most_urls) - all_urls
        known = dict(zip(self._urls[piece.part], scores, strict=True))
        # Near the cap, only the script says what becomes of a new URL.
        if not pending.urls.keys() <= known.keys() or (pending.urls and room < len(known)):
            raise OnlyPostingCanTellError
        return Reading(
            rows=rows[1] if piece.behind else rows,
            totals=totals,
            urls=count,
            scores={url: int(score) for url, score in known.items() if score is not None},
            pending=pending,
        )


def _add(table: dict[str, int], more: Mapping[str, int]) -> None:
    for name, hits in more.items():
        table[name] = table.get(name, 0) + hits


def _totals_with(reading: Reading) -> tuple[dict[str, int], int]:
    """Return a shard's totals and number of URLs, in the form that `Totals.of` takes."""
    pending = reading.pending
    table = {name: int(hits) for name, hits in reading.totals.items() if name == "requests" or name.startswith("(")}
    _add(table, pending.lines)
    _add(table, {"requests": pending.total})
    return table, reading.urls + len(pending.urls.keys() - reading.scores.keys())


def _rows_with(reading: Reading, piece: Slice) -> Flat:
    """Return the rows of a slice, those of pending URLs where they belong now."""
    pending, flat = reading.pending.urls, reading.rows
    if not pending:
        return flat[: 2 * piece.rows]
    urls, hits = flat[::2], flat[1::2]
    for at in [at for at, url in enumerate(urls) if url in pending][::-1]:
        del urls[at], hits[at]
    moved = [(reading.scores.get(url, 0) + more, url) for url, more in pending.items()]
    at = 0
    for row in sorted(moved, reverse=True):
        if _is_behind(row, piece.behind):
            at = _place_of(row, urls, hits, at)
            if at >= piece.rows:
                break
            urls.insert(at, row[1])
            hits.insert(at, str(row[0]))
    return list(chain.from_iterable(zip(urls[: piece.rows], hits, strict=False)))


def _place_of(row: tuple[int, str], urls: Sequence[str], hits: Sequence[str], start: int) -> int:
    """Return where a row belongs among rows that stand in order, highest first, from a place on."""
    below = bisect_left(range(start, len(urls)), True, key=lambda at: (int(hits[at]), urls[at]) < row)
    return start + below


def _is_behind(row: tuple[int, str], place: Place | None) -> bool:
    return place is None or row < place
