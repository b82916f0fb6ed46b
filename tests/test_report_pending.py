"""Reports to which a host's pending hits are added: what they say is what they would say once all is posted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hitledger.entries import MOST_URLS_A_CALL
from hitledger.journal import PATH, UNMATCHED_KIND, JournalWriter
from hitledger.ledger import LedgerStore
from hitledger.pending import MOST_BYTES
from hitledger.posting import Poster
from hitledger.report import Page, Query, Reports
from hitledger.settings import Settings
from tests.books import Books
from tests.support import Valkey

pytestmark = pytest.mark.usefixtures("one_hour")
URLS = [b"/", b"/a", b"/a/", b"/a/b", b"/b", b"/c", b"/\xff", b"/line\nfeed"]


class Desk(Books):
    """One process of a host: its journal, its poster, and reports that know of both."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.reports = Reports(self.store, settings)
        self.posted = 0

    def pending(self) -> object:
        """Return what is pending, as a report asks for it."""
        return self.poster.pending()

    def post_now(self) -> None:
        """Post, as a report does that cannot do without."""
        self.posted += 1
        self.poster.post_now(patient=False)

    def pages(self, **parameters: str) -> Iterator[Page]:
        """Yield all pages of a report, pending hits added."""
        cursor: str | None = ""
        while cursor is not None:
            more = {"cursor": cursor} if cursor else {}
            page = self.reports.page(Query.read(parameters | more), self)  # type: ignore[arg-type]
            yield page
            cursor = page.cursor


@pytest.fixture
def desk(settings: Settings) -> Iterator[Desk]:
    """A desk whose ledger is there and whose journal has a file that is followed."""
    desk = Desk(settings)
    desk.note(b"/first")
    desk.poster.post_now()
    yield desk
    desk.close()


def told(pages: list[Page]) -> tuple[int, int | None, dict[str, int], list[str]]:
    """Return all that pages say, but when."""
    last = pages[-1]
    return last.total_requests, last.total_urls, last.other, [text for page in pages for text in page.flat]


@hypothesis_settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(
        st.one_of(st.sampled_from(URLS), st.sampled_from(["unmatched", "post", "other posts"])), max_size=25
    ),
    limit=st.integers(1, 9),
    period=st.sampled_from(["all", "hour", "day", "month"]),
    shards=st.sampled_from([1, 3]),
)
def test_pending_hits_are_as_good_as_posted(
    valkey: Valkey,
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[bytes | str],
    limit: int,
    period: str,
    shards: int,
) -> None:
    """Whatever was journalled and posted, by whomever: pages say the same before and after the rest is posted."""
    folder = tmp_path_factory.mktemp("desk")
    settings = Settings(redis_url=valkey.url, data_dir=folder, key_prefix=f"test-{folder.name}", shards=shards)
    desk, other = Desk(settings), Poster(settings, LedgerStore(settings))
    desk.note(b"/first", b"/second")
    desk.poster.post_now()
    list(desk.pages(limit="1"))  # the server knows the scripts from here on
    for step in steps:
        if isinstance(step, bytes):
            desk.note(step)
        elif step == "unmatched":
            desk.journal.append(UNMATCHED_KIND, b"")
        else:
            (desk.poster if step == "post" else other).post_now()
    desk.posted = 0
    before = told(list(desk.pages(limit=str(limit), period=period)))
    assert desk.posted == 0
    desk.poster.post_now()
    assert before == told(list(desk.pages(limit=str(limit), period=period)))
    other.close()
    desk.close()


def test_a_hit_is_there_once_while_others_post(desk: Desk, settings: Settings) -> None:
    """While two posters race, every report has exactly what was journalled when it was asked for."""
    other = Poster(settings, LedgerStore(settings))
    stop = threading.Event()

    def post(poster: Poster) -> None:
        while not stop.is_set():
            poster.round()

    threads = [threading.Thread(target=post, args=(poster,)) for poster in (desk.poster, other)]
    for thread in threads:
        thread.start()
    try:
        for number in range(300):
            desk.note(URLS[number % len(URLS)])
            (page,) = desk.pages()
            assert page.total_requests == number + 2
            assert sum(row.requests for row in page.rows) == number + 2
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        other.close()


def test_a_server_that_forgot_the_scripts_is_told_them(desk: Desk, valkey: Valkey) -> None:
    """After a server's restart, a page waits for no posting either."""
    valkey.client.script_flush()
    desk.note(b"/a", b"/b")
    for page in desk.pages(limit="1"):
        assert page.total_requests == 3
    assert desk.posted == 0


def test_a_report_waits_for_no_posting(desk: Desk) -> None:
    """While a poster is at work, and waits for a disk, a report is answered beside it."""
    desk.note(b"/a")
    with desk.poster._mutex:
        (page,) = desk.pages()
    assert (page.total_requests, desk.posted) == (2, 0)


def test_a_ledger_that_fell_back_is_posted_first(desk: Desk) -> None:
    """Where a watermark stands further back than it did, only posting can tell: nothing is left out."""
    client = desk.store.reader(0)
    for key in client.scan_iter(desk.store.key("*")):
        client.delete(key)
    desk.note(b"/a")
    (page,) = desk.pages()
    assert (page.total_requests, desk.posted) == (2, 1)


def test_a_new_file_is_posted_first(desk: Desk, settings: Settings) -> None:
    """Hits in a file that this process does not follow yet are in its next report."""
    other = JournalWriter(settings.journal_dir)
    other.append(PATH, b"/other")
    (page,) = desk.pages()
    assert (page.total_requests, desk.posted) == (2, 1)
    other.append(PATH, b"/other")
    (page,) = desk.pages()
    assert (page.total_requests, desk.posted) == (3, 1)
    other.close()


def test_a_record_that_is_being_written_is_left(desk: Desk) -> None:
    """A torn end is no hit yet; a torn record in the middle is for posting to tell of."""
    desk.note(b"/a")
    (path,) = desk.files()
    with path.open("ab", buffering=0) as file:
        file.write(b"\n0badc0de")
    (page,) = desk.pages()
    assert (page.total_requests, desk.posted) == (2, 0)
    desk.note(b"/a")
    (page,) = desk.pages()
    assert (page.total_requests, desk.posted) == (3, 1)


def test_much_is_posted_first(desk: Desk) -> None:
    """What would take long to add is posted instead, once for all readers."""
    desk.note(*[b"/a"] * (MOST_BYTES // 19))
    assert desk.pending() is None
    (page,) = desk.pages()
    assert (page.total_requests, desk.posted) == (MOST_BYTES // 19 + 1, 1)


def test_near_the_cap_only_the_script_tells(settings: Settings) -> None:
    """Where a new URL may be one too many, it is posted first, and counted where the script puts it."""
    desk = Desk(replace(settings, max_urls=2))
    desk.note(b"/first")
    desk.poster.post_now()
    desk.note(b"/second", b"/third")
    (page,) = desk.pages()
    assert (page.total_urls, page.other["(overflow)"], page.total_requests, desk.posted) == (2, 1, 3, 1)
    desk.close()


def test_another_hour_is_another_report(desk: Desk) -> None:
    """Pending hits are in the report of their own hour and in no other."""
    desk.note(b"/a")
    now = datetime.now(UTC)
    (page,) = desk.pages(period="hour", at=f"{now - timedelta(hours=1):%Y-%m-%dT%H}")
    assert page.flat == []
    assert desk.posted == 0


def test_a_file_that_was_closed_is_not_read(desk: Desk) -> None:
    """A closed file's number may be another file's by now: nothing is read by it."""
    (follower,) = desk.poster._followers.values()
    follower.close()
    assert desk.pending() is None
    assert follower.read(0, MOST_URLS_A_CALL) is None
