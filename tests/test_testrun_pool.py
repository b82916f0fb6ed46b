"""The random URLs of a test run."""

from __future__ import annotations

from collections import Counter
from random import Random

from hitledger.testrun.pool import draw_pool, draw_urls, paths_of


def test_pool_has_three_different_strings() -> None:
    """A pool is three different words, and another run's is another."""
    pools = [draw_pool(Random(seed)) for seed in range(50)]
    assert all(len(set(pool)) == 3 and all(word.isascii() and word.isalpha() for word in pool) for pool in pools)
    assert len(set(pools)) == 50


def test_all_paths_of_a_pool() -> None:
    """There are 3 + 9 + ... + 729 paths, each /api/, 1 to 6 words of the pool, and a slash."""
    paths = paths_of(["a", "b", "c"])
    assert len(paths) == len(set(paths)) == 1092
    assert paths[:4] == ["/api/a/", "/api/b/", "/api/c/", "/api/a/a/"]
    assert paths[-1] == "/api/c/c/c/c/c/c/"


def test_urls_are_drawn_evenly() -> None:
    """Every length is as likely as any other, and so is every word in every place."""
    urls = list(draw_urls("http://t", ["a", "b", "c"], 60_000, "seed"))
    lengths = Counter(url.count("/") - 4 for url in urls)
    assert len(urls) == 60_000
    assert sorted(lengths) == [1, 2, 3, 4, 5, 6]
    assert all(9_000 < count < 11_000 for count in lengths.values())
    words = Counter(url.split("/")[4] for url in urls)
    assert sorted(words) == ["a", "b", "c"]
    assert all(19_000 < count < 21_000 for count in words.values())


def test_urls_follow_their_seed() -> None:
    """The same seed draws the same URLs, another one others; the number drawn is the number asked for."""
    pool = ["a", "b", "c"]
    assert list(draw_urls("", pool, 700, "x")) == list(draw_urls("", pool, 700, "x"))
    assert list(draw_urls("", pool, 700, "x")) != list(draw_urls("", pool, 700, "y"))
    assert [len(list(draw_urls("", pool, count, "x"))) for count in (0, 1, 511, 512, 513)] == [0, 1, 511, 512, 513]
