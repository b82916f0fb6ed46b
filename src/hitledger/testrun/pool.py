"""The random URLs of a test run: /api/, 1 to 6 segments from the run's own pool, and a slash.

With 3 words in the pool there are at most 3 + 9 + ... + 729 = 1,092 distinct paths, so a
run of any size can hold them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, product
from random import Random
from string import ascii_lowercase

WORDS = 3
WORD_LETTERS = 3
MOST_SEGMENTS = 6
DRAWN_AT_ONCE = 512


def draw_pool(random: Random) -> tuple[str, ...]:
    """Return a run's pool: 3 different words of 3 letters."""
    words: dict[str, None] = {}
    while len(words) < WORDS:
        words["".join(random.choices(ascii_lowercase, k=WORD_LETTERS))] = None
    return tuple(words)


def paths_of(pool: Sequence[str]) -> list[str]:
    """Return every path that can be drawn from a pool, the short ones first."""
    return [
        f"/api/{'/'.join(segments)}/"
        for length in range(1, MOST_SEGMENTS + 1)
        for segments in product(pool, repeat=length)
    ]


def draw_urls(target: str, pool: Sequence[str], count: int, seed: str) -> Iterator[str]:
    """Yield `count` URLs below `target`; the same seed and pool give the same paths.

    Every length is as likely as any other, and so is every word in every segment: a path
    of `length` segments is drawn with probability 1 / (6 * 3^length).
    """
    random = Random(seed)  # noqa: S311 - it chooses URLs, not secrets
    urls = [target + path for path in paths_of(pool)]
    weights = [
        len(pool) ** (MOST_SEGMENTS - length)
        for length in range(1, MOST_SEGMENTS + 1)
        for _ in range(len(pool) ** length)
    ]
    cumulative = list(accumulate(weights))
    while count > 0:
        # Drawn by the hundred: one call of `choices` costs a quarter of as many single draws.
        yield from random.choices(urls, cum_weights=cumulative, k=min(count, DRAWN_AT_ONCE))
        count -= DRAWN_AT_ONCE
