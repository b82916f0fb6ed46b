"""One order out of several parts: a page of a source, or all of it.

From each part only as much is read as the page needs. With S parts, a page of n rows first
asks each for n/S rows and some more; only a part whose rows ran out before the page was full
is asked again. So a page costs n rows and S look-ups, whatever the number of URLs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isqrt

from hitledger.report.cursor import Place
from hitledger.report.source import Slice, Source

STREAM_ROWS = 5000
"""Rows a part is asked for at a time when all of it is read: under 2 ms of a server."""

Flat = list[str]
"""URL, requests, URL, requests, ... in texts."""


def place_behind(flat: Flat) -> Place:
    """Return the place of the last row."""
    return int(flat[-1]), flat[-2]


def first_slices(parts: int, behind: Place | None, count: int) -> list[Slice]:
    """Return the slices to read for `count` rows behind a place.

    A part's share varies by about the square root of its mean, so three roots more are
    enough for most pages to need one round trip only.
    """
    share = -(-count // parts)
    wanted = count if parts == 1 else min(count, share + 3 * isqrt(share) + 3)
    return [Slice(part, behind, wanted) for part in range(parts)]


def merge(source: Source, slices: Sequence[Slice], answers: Sequence[Flat], count: int) -> Flat:
    """Return the first `count` rows of a source, given what its `first_slices` brought."""
    if len(slices) == 1:
        return answers[0]
    heads = [_Head(piece) for piece in slices]
    for head, answer in zip(heads, answers, strict=True):
        head.take(answer)
    while True:
        rows = sorted((row for head in heads for row in head.rows), reverse=True)[:count]
        # A part may hold more rows above the page's last one if its own last row is above that.
        short = [head for head in heads if not head.ended and (len(rows) < count or head.rows[-1] > rows[-1])]
        if not short:
            return [text for hits, url in rows for text in (url, str(hits))]
        more = [Slice(head.part, head.rows[-1], head.wanted) for head in short]
        for head, answer in zip(short, source.read(more), strict=True):
            head.take(answer)


class _Head:
    """What has been read of one part: rows as (requests, URL), in order."""

    def __init__(self, piece: Slice) -> None:
        self.part = piece.part
        self.wanted = piece.rows
        self.rows: list[Place] = []
        self.ended = False

    def take(self, flat: Flat) -> None:
        self.rows += zip(map(int, flat[1::2]), flat[::2], strict=True)
        self.ended = len(flat) < 2 * self.wanted


def stream(source: Source, behind: Place | None, rows: int = STREAM_ROWS) -> Iterator[Flat]:
    """Yield all rows behind a place, in order, in chunks of about `rows`.

    At most two chunks are held at a time, whatever the source's size.
    """
    while True:
        slices = first_slices(source.parts, behind, rows)
        flat = merge(source, slices, source.read(slices), rows)
        if flat:
            yield flat
            behind = place_behind(flat)
        if len(flat) < 2 * rows:
            return
