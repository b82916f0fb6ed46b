"""What many tabs watch: drawn once for all of them, and never more often than a process can bear."""

from __future__ import annotations

import gzip
import threading
from itertools import count

from hitledger.web.feed import MOST_DRAWN_A_SECOND, MOST_KEPT, Feed


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_any_number_of_tabs_is_one_drawing_a_second() -> None:
    """All who ask within a second get the same piece; the next second has the next one."""
    clock, drawn = Clock(), count(1)
    feed = Feed(clock)

    def draw() -> str:
        return f"<p>{next(drawn)}</p>"

    found = {fragment for _ in range(500) if (fragment := feed.fragment("/", draw))}
    assert [each.body for each in found] == [b"<p>1</p>"]
    assert [gzip.decompress(each.compressed) for each in found] == [b"<p>1</p>"]
    clock.now += 1
    second = feed.fragment("/", draw)
    assert second
    assert second.body == b"<p>2</p>"


def test_work_is_bounded_however_many_pages_are_looked_at() -> None:
    """Of a thousand different pages in a second only so many are drawn; the others are told to ask again."""
    clock, drawn = Clock(), count()
    feed = Feed(clock)
    answers = [feed.fragment(f"/?search={number}", lambda: str(next(drawn))) for number in range(1000)]
    assert sum(answer is not None for answer in answers) == next(drawn) == MOST_DRAWN_A_SECOND
    clock.now += 1
    assert feed.fragment("/?search=999", lambda: "at last") is not None
    assert len(feed._places) <= MOST_KEPT


def test_beyond_the_bound_tabs_keep_what_was_drawn_last() -> None:
    """A page that was drawn before is answered with its last state, not with nothing."""
    clock = Clock()
    feed = Feed(clock)
    assert feed.fragment("/", lambda: "first")
    for number in range(MOST_DRAWN_A_SECOND):
        feed.fragment(f"/{number}", lambda: "another")
    clock.now += 0.95
    for number in range(MOST_DRAWN_A_SECOND):
        feed.fragment(f"/{number}", lambda: "another")
    kept = feed.fragment("/", lambda: "second")
    assert kept
    assert kept.body == b"first"


def test_nobody_waits_for_a_drawing() -> None:
    """While one draws, others get the last state at once, or are told to ask again."""
    clock, drawing, may_end = Clock(), threading.Event(), threading.Event()
    feed = Feed(clock)

    def slowly() -> str:
        drawing.set()
        assert may_end.wait(20)
        return "slow"

    thread = threading.Thread(target=feed.fragment, args=("/", slowly))
    thread.start()
    assert drawing.wait(20)
    assert feed.fragment("/", lambda: "never") is None
    may_end.set()
    thread.join()
    found = feed.fragment("/", lambda: "never")
    assert found
    assert found.body == b"slow"


def test_what_fails_is_told_and_tried_again() -> None:
    """A drawing that fails keeps nobody from the next one."""
    feed = Feed(Clock())

    def fail() -> str:
        raise ValueError

    for _ in range(2):
        try:
            feed.fragment("/", fail)
        except ValueError:
            continue
        raise AssertionError
    assert feed.fragment("/", lambda: "well")
