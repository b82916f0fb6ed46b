"""The ledger's rows, with what this host has journalled beside them.

For each shard, rows, totals, counts of the pending URLs and the watermarks are read at one
moment; what the journal holds behind these watermarks is then added. So a reader sees
every hit of the host without waiting until it is posted, and sees it once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol

from hitledger.dispatch import Command, script
from hitledger.entries import Hits, Totals, Watermark, most_urls_of
from hitledger.ledger import LedgerStore
from hitledger.paths import LINES
from hitledger.periods import Period
from hitledger.report.source import Flat, LiveSource, Piece, Slice, piece_of, rows_before

FIELDS = ("requests", *LINES)
"""What a page tells of the totals."""


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
    totals: Sequence[str | None]
    """Values of the `FIELDS`."""
    urls: int
    scores: Mapping[str, int]
    """Hits of the pending URLs that the set has."""
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
        return _totals_with(readings), rows

    def _readings(self, slices: Sequence[Slice]) -> list[Reading]:
        # A pending URL may leave its place.
        wider = [each._replace(rows=each.rows + len(self._urls[each.part])) for each in slices]
        frames, pieces = self._read_at_one_moment(wider)
        if not all(pieces):
            # Ranks have shifted: all is read again, so that all of it is of one moment.
            frames, pieces = self._read_at_one_moment([each._replace(rank=None) for each in wider])
        rows = [self._remembered(each, piece) for each, piece in zip(slices, pieces, strict=True) if piece]
        return list(map(self._reading, slices, frames, rows))

    def _read_at_one_moment(self, slices: Sequence[Slice]) -> tuple[list[Any], list[Piece | None]]:
        """Return what stands beside the rows of each slice, and its rows."""
        calls = [(slices[0].part, self._frame_command(slices)), *((each.part, self._command(each)) for each in slices)]
        answers = self._store.read_at_one_moment(calls)
        if answers is None:
            raise OnlyPostingCanTellError
        return answers[0], list(map(piece_of, slices, answers[1:]))

    def _frame_command(self, slices: Sequence[Slice]) -> Command:
        """Return the call of the script `frame`."""
        store, journals = self._store, self._pending.journals
        keys: list[str] = []
        words: list[str | int] = [len(FIELDS), *FIELDS, len(journals), *journals]
        for shard, *_ in slices:
            key, urls = store.set_key(shard, self._period), self._urls[shard]
            keys += (store.totals_key(shard, self._period), key, store.watermarks_key(shard), store.set_key(shard))
            words += (len(urls), *urls)
        return ("EVALSHA", script("frame").sha, len(keys), *keys, *words)

    def _reading(self, piece: Slice, frame: Sequence[Any], rows: Flat) -> Reading:
        totals, count, texts, scores, all_urls = frame
        marks = [Watermark.decode(text) if text else None for text in texts]
        found = self._pending.hits(piece.part, marks)
        if found is None:
            raise OnlyPostingCanTellError
        pending = Hits()
        for hour, hits in chain.from_iterable(table.items() for table in found):
            if self._period is None or self._period.has_hour(hour):
                _add(pending.urls, hits.urls)
                _add(pending.lines, hits.lines)
        urls = self._urls[piece.part]
        room = most_urls_of(piece.part, self.parts, self._most_urls) - all_urls
        # Near the cap, only the script says what becomes of a new URL.
        if pending.urls and (room < len(urls) or not pending.urls.keys() <= set(urls)):
            raise OnlyPostingCanTellError
        known = {url: int(score) for url, score in zip(urls, scores, strict=True) if score is not None}
        return Reading(rows, totals, count, known, pending)


def _add(table: dict[str, int], more: Mapping[str, int]) -> None:
    for name, hits in more.items():
        table[name] = table.get(name, 0) + hits


def _totals_with(readings: Sequence[Reading]) -> Totals:
    """Return the totals of all shards, with what is pending."""
    sums = dict.fromkeys(FIELDS, 0)
    urls = 0
    for reading in readings:
        for name, text in zip(FIELDS, reading.totals, strict=True):
            if text:
                sums[name] += int(text)
        _add(sums, reading.pending.lines)
        sums["requests"] += reading.pending.total
        urls += reading.urls + len(reading.pending.urls.keys() - reading.scores.keys())
    return Totals(sums.pop("requests"), urls, {line: hits for line, hits in sums.items() if hits})


def _rows_with(reading: Reading, piece: Slice) -> Flat:
    """Return the rows of a slice, those of pending URLs where they belong now."""
    flat = reading.rows.copy()
    for url in reading.pending.urls.keys() & reading.scores.keys():
        behind = 2 * rows_before((reading.scores[url], url), flat)
        if behind and flat[behind - 2] == url:
            del flat[behind - 2 : behind]
    for url, more in reading.pending.urls.items():
        row = (reading.scores.get(url, 0) + more, url)
        if piece.behind is None or row < piece.behind:
            at = 2 * rows_before(row, flat)
            flat[at:at] = url, str(row[0])
    return flat[: 2 * piece.rows]
