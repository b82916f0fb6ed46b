"""What pages draw and how they name things: charts, maps, trends, and URLs that people can read."""

from __future__ import annotations

import math
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitledger.journal import HEADER_BYTES, PATH, JournalWriter
from hitledger.paths import url_of
from hitledger.report.single import Point
from hitledger.web.chart import area_of, chart_of, line_of, nice, short
from hitledger.web.names import readable
from hitledger.web.overview import rates_of
from hitledger.web.pending import RecordCounter
from hitledger.web.treemap import HEIGHT, WIDTH, tiles_of
from hitledger.web.trend import trend_of


@given(st.binary(max_size=60))
def test_names_are_as_distinct_as_urls(path: bytes) -> None:
    """What is shown leads back to the one URL that it stands for, and holds nothing unsafe."""
    url = url_of(b"/" + path)
    shown = readable(url)
    assert "".join(each if each.isascii() else quote(each) for each in shown) == url
    assert shown.isprintable()


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/naïve/日本/😀/", "/naïve/日本/😀/"),
        ("/a%2Fb/", "/a%252Fb/"),
        ("/<script>/", "/%3Cscript%3E/"),
        ("/x\u202ey/", "/x%E2%80%AEy/"),
        ("/\u200b/", "/%E2%80%8B/"),
        ("/\u00a0/", "/%C2%A0/"),
        ("/שלום/", "/" + quote("שלום") + "/"),
        ("/a\u2044b/", "/a%E2%81%84b/"),
        ("/\uff0f/", "/%EF%BC%8F/"),
        ("/e\u0301/", "/e%CC%81/"),
        ("/\u0e01\u0e49\u0e49\u0e49/", "/\u0e01\u0e49\u0e49%E0%B9%89/"),
    ],
)  # fmt: skip
def test_names_decode_only_what_is_safe(path: str, shown: str) -> None:
    """Letters and signs are read as such; what is ASCII, invisible, turning or a look-alike stays encoded."""
    assert readable(url_of(path.encode())) == shown


@given(st.lists(st.integers(0, 10**15), max_size=40))
def test_a_map_is_true_to_its_numbers(values: list[int]) -> None:
    """Each area is as large as its value, and all of them fill the map."""
    values = sorted(values, reverse=True)
    tiles = tiles_of(values)
    some = [value for value in values if value]
    assert [tile.index for tile in tiles] == list(range(len(some)))
    for tile, value in zip(tiles, some, strict=True):
        wide, high = float(tile.width.rstrip("%")), float(tile.height.rstrip("%"))
        assert math.isclose(wide * high / 100, 100 * value / sum(some), rel_tol=0.05, abs_tol=0.2)
        assert float(tile.x.rstrip("%")) + wide <= 100.1
        assert float(tile.y.rstrip("%")) + high <= 100.1
    assert WIDTH > HEIGHT


def test_a_chart_has_a_round_axis_and_no_long_emptiness() -> None:
    """The highest bar stays below the axis's end; empty days before the first request are left out, but for some."""
    series = [Point(f"2026-{month:02}-01", 0) for month in range(1, 10)] * 10
    chart = chart_of("day", [*series, Point("2026-10-01", 3), Point("2026-10-02", 4711)])
    assert chart
    assert (len(chart.bars), chart.top, chart.highest.requests, chart.total) == (14, 6000, 4711, 4714)
    assert [text for _, text in chart.ticks] == ["6k", "3k", "0"]
    assert chart.bars[-1].height == "78.517%"
    assert chart.bars[-2].height == "1.000%"
    assert chart_of("hour", [Point("2026-10-01T00", 0)]) is None


@given(st.integers(1, 2**53))
def test_an_axis_ends_round(most: int) -> None:
    """It ends at or above the highest bar, not far from it, and its middle is a whole number."""
    top = nice(most)
    assert most <= top <= max(2, 2 * most)
    assert top % 2 == 0


def test_short_numbers() -> None:
    """An axis has room for four characters."""
    assert [short(each) for each in (0, 5, 950, 1500, 20_000, 3_000_000)] == ["0", "5", "950", "1.5k", "20k", "3M"]


def test_small_lines() -> None:
    """One bar a value, none for nothing; a rate is drawn from where it began to be looked at."""
    assert line_of([0, 0]) == ""
    assert line_of([2, 0, 4]).count("M") == 2
    assert area_of([(40.0, 0.0)], 60.0, 60) == ""
    path = area_of([(40.0, 0.0), (50.0, 8.0), (60.0, 4.0)], 60.0, 60)
    assert path == "M40.00 2.0L50.00 2.0L50.00 21.0L60.00 21.0L60.00 40.0L40.00 40.0z"


def test_a_rate_is_taken_over_some_seconds() -> None:
    """What is posted in strokes does not make the rate jump; before three seconds it is over less."""
    samples = [(float(second), 100 * second) for second in range(10)]
    assert [rate for _, rate in rates_of(samples)][1:] == [100.0] * 9
    assert rates_of([(0.0, 0), (1.0, 0), (2.0, 0), (3.0, 300)])[-1] == (3.0, 100.0)
    assert rates_of([]) == []


@pytest.mark.parametrize(
    ("recent", "before", "elapsed", "word", "text"),
    [
        (0, 0, 0.5, "quiet", ""), (4, 0, 0.5, "new", ""), (500, 1000, 0.5, "steady", ""),
        (530, 1000, 0.5, "steady", ""),
        (700, 1000, 0.5, "rising", "+40 %"), (300, 1000, 0.5, "falling", "\u221240 %"), (3, 2, 0.5, "steady", ""),
        (0, 10_000, 0.0, "falling", "\u2212100 %"), (10**6, 1, 0.001, "rising", "+999 %"),
    ],
)  # fmt: skip
def test_a_trend_is_more_than_chance(recent: int, before: int, elapsed: float, word: str, text: str) -> None:
    """This hour so far is set beside as much of the last one; what chance explains is no trend."""
    found = trend_of(recent, before, elapsed)
    assert (found.word, found.text) == (word, text)


def test_waiting_hits_are_counted_once(tmp_path: Path) -> None:
    """Each byte is read once, only so many a look, and posting on takes its hits from the sum."""
    journal = JournalWriter(tmp_path, sync="none")
    for _ in range(1000):
        assert journal.append(PATH, b"/api/one/")
    (file,) = tmp_path.glob("*.journal")
    record = (file.stat().st_size - HEADER_BYTES) // 1000
    counter = RecordCounter(most_bytes=600 * record)
    first = counter.count([(file, HEADER_BYTES)])
    assert (first.hits, first.whole) == (600, False)
    for _ in range(5):
        assert journal.append(PATH, b"/api/one/")
    second = counter.count([(file, HEADER_BYTES)])
    assert (second.hits, second.whole) == (1005, True)
    third = counter.count([(file, HEADER_BYTES + 1000 * record), (tmp_path / "gone.journal", HEADER_BYTES)])
    assert (third.hits, third.whole) == (5, True)
    journal.close()
