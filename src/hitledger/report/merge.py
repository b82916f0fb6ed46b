"""One order out of several parts: a page of a source, or all of it.

From each part only as much is read as the page needs. With S parts, a page of n rows first
asks each for n/S rows and some more; only a part whose rows ran out before the page was full
is asked again. So a page costs n rows and S look-ups, whatever the number of URLs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import chain
from math import isqrt

from hitledger.report.cursor import Place, Ranks
from hitledger.report.source import Flat, Slice, Source

HITS_FORMAT = "%16s"
"""In what takes 2^53, where sorted sets stop counting exactly."""


def place_behind(flat: Flat, width: int = 2) -> Place:
    """Return the place of the last row."""
    return int(flat[-width + 1]), flat[-width]


def sortable(flat: Flat, width: int = 2) -> list[str]:
    """Return rows as texts that sort as rows do, which `flat_again` takes apart.

    They are made, sorted, cut and taken apart by the million where tuples would take three
    times as long. No name has control characters.
    """
    texts = flat.copy()
    texts[::width], texts[1::width] = flat[1::width], flat[::width]
    row = HITS_FORMAT + "\0%s" * (width - 1) + "\n"
    return (row * (len(flat) // width) % tuple(texts)).split("\n")[:-1]


def flat_again(rows: Sequence[str], width: int = 2) -> Flat:
    """Return rows in the form that the ledger has them in."""
    if not rows:
        return []
    texts = "\0".join(rows).split("\0")
    texts[::width], texts[1::width] = texts[1::width], map(str.lstrip, texts[::width])
    return texts


def first_slices(parts: int, behind: Place | None, count: int, ranks: Ranks = ()) -> list[Slice]:
    """Return the slices to read for `count` rows behind a place, which had these ranks in the parts.

    A part's share varies by about the square root of its mean, so three roots more are
    enough for most pages to need one round trip only.
    """
    share = -(-count // parts)
    wanted = count if parts == 1 else min(count, share + 3 * isqrt(share) + 3)
    known = ranks if len(ranks) == parts else [None] * parts
    return [Slice(part, behind, wanted, rank) for part, rank in enumerate(known)]


def merge(source: Source, slices: Sequence[Slice], answers: Sequence[Flat], count: int) -> Flat:
    """Return the first `count` rows of a source, given what its `first_slices` brought."""
    if len(slices) == 1:
        return answers[0]
    heads = [_Head(piece, answer, source.width) for piece, answer in zip(slices, answers, strict=True)]
    while True:
        rows = sorted(chain.from_iterable(head.rows for head in heads), reverse=True)[:count]
        # A part may hold more of the page's rows if its own last row stands above the page's.
        short = [head for head in heads if not head.ended and (len(rows) < count or head.rows[-1] > rows[-1])]
        if not short:
            return flat_again(rows, source.width)
        more = [Slice(head.part, head.place, head.wanted) for head in short]
        for head, answer in zip(short, source.read(more), strict=True):
            head.take(answer)


class _Head:
    """What has been read of one part, in order."""

    def __init__(self, piece: Slice, flat: Flat, width: int) -> None:
        self.part = piece.part
        self.wanted = piece.rows
        self._width = width
        self.rows: list[str] = []
        self.place: Place | None = None
        self.take(flat)

    def take(self, flat: Flat) -> None:
        self.rows += sortable(flat, self._width)
        self.ended = len(flat) < self._width * self.wanted
        if flat:
            self.place = place_behind(flat, self._width)


def stream(source: Source, behind: Place | None = None) -> Iterator[Flat]:
    """Yield all rows of a source behind a place, in order, in pieces; holds one piece a part at a time."""
    walks = [source.walk(part, behind) for part in range(source.parts)]
    if len(walks) == 1:
        yield from walks[0]
        return
    heads: dict[int, list[str]] = {}
    waiting = dict(enumerate(walks))
    while waiting or any(heads.values()):
        for part, walk in list(waiting.items()):
            if not heads.get(part):
                flat = next(walk, None)
                if flat is None:
                    del waiting[part]
                else:
                    # Best last: those that go first are at the list's end.
                    heads[part] = sortable(flat, source.width)[::-1]
        # Everything down to the best of the parts' last rows can be passed by no row to come.
        barrier = max((heads[part][0] for part in waiting), default="")
        ready = []
        for rows in heads.values():
            cut = bisect_left(rows, barrier)
            ready += rows[cut:]
            del rows[cut:]
        ready.sort(reverse=True)
        if ready:
            yield flat_again(ready, source.width)


def stream_by_part(source: Source, behind: Place | None = None) -> Iterator[Flat]:
    """Yield all rows of a source, part after part, each in order: no row waits for another part's.

    A place belongs to the part of its URL: those before it are done, those after it are whole.
    """
    first = 0 if behind is None else source.part_of(behind[1])
    for part in range(first, source.parts):
        yield from source.walk(part, behind if part == first else None)
