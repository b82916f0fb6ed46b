"""Sections: by depth, and by the patterns of a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hitledger import tree
from hitledger.errors import QueryError, SettingsError
from hitledger.ledger import LedgerStore
from hitledger.report import Query, Reports
from hitledger.report.page import Section, SectionRow
from hitledger.report.sections import ByDepth, read_patterns
from hitledger.settings import Settings
from tests.report_support import book, with_shards

PATTERNS = """
[[pattern]]
match = "/api/product/*/"
except = ["/api/product/new/", "/api/product/b*/"]

[[pattern]]
match = "/api/product/b*/"

[[pattern]]
match = "/files/**"

[[pattern]]
match = "/über/*"
"""


@pytest.fixture
def store(settings: Settings) -> Iterator[LedgerStore]:
    """A ledger of three shards."""
    with closing(LedgerStore(with_shards(settings, 3))) as store:
        yield store


@pytest.mark.parametrize(
    ("url", "sections"),
    [
        ("/", ["/", "/", "/"]),
        ("/api", ["/api", "/api", "/api"]),
        ("/api/one", ["/api/", "/api/one", "/api/one"]),
        ("/api/one/", ["/api/", "/api/one/", "/api/one/"]),
        ("/api//one/", ["/api/", "/api//", "/api//one/"]),
        ("//api/", ["//", "//api/", "//api/"]),
        ("%2A", ["%2A", "%2A", "%2A"]),
    ],
)
def test_sections_by_depth(url: str, sections: list[str]) -> None:
    """A section goes up to the slash behind its last segment; a shorter URL is one of its own."""
    assert [ByDepth(depth).of([url.encode()])[0].decode() for depth in (1, 2, 3)] == sections


def test_kept_sections_cost_their_children(store: LedgerStore) -> None:
    """Where sections are kept, one comes without its URLs being added up, however many they are."""
    few = replace(store._settings, report_max_entries=10)
    book(store, datetime.now(UTC), {f"/a/{number % 3}/{number}/": number for number in range(1, 100)})
    under = Query.read({"under": "/a/"})
    with pytest.raises(QueryError, match="asks for too much"):
        Reports(store, few).page(under)
    tree.keep(store)
    page = Reports(store, few).page(under)
    assert page.sections == [
        SectionRow("/a/0/", 1683, 33),
        SectionRow("/a/2/", 1650, 33),
        SectionRow("/a/1/", 1617, 33),
    ]
    page = Reports(store, few).page(Query.read({"prefix": "/a/2/", "limit": "2"}))
    assert page.section == Section("/a/2/", 1650, 33)
    assert [row.url for row in page.rows] == ["/a/2/98/", "/a/2/95/"]


def test_patterns_add_urls_up(store: LedgerStore, settings: Settings, tmp_path: Path) -> None:
    """The first pattern that matches and makes no exception has a URL; others stay themselves."""
    file = tmp_path / "patterns.toml"
    file.write_text(PATTERNS, "utf-8")
    counts = {
        "/api/product/1/": 3, "/api/product/2/": 4, "/api/product/new/": 5, "/api/product/1/2/": 1, "/api/product//": 1,
        "/api/product/b1/": 2, "/files/a/b/c": 1, "/files/": 1, "/%C3%BCber/x": 7, "/api/product/1": 1,
    }  # fmt: skip
    book(store, datetime.now(UTC), counts)
    page = Reports(store, replace(settings, patterns_file=file)).page(Query.read({"group": "patterns"}))
    assert page.sections == [
        SectionRow("/api/product/*/", 7, 2),
        SectionRow("/%C3%BCber/*", 7, 1),
        SectionRow("/api/product/new/", 5, 1),
        SectionRow("/files/**", 2, 2),
        SectionRow("/api/product/b*/", 2, 1),
        SectionRow("/api/product/1/2/", 1, 1),
        SectionRow("/api/product/1", 1, 1),
        SectionRow("/api/product//", 1, 1),
    ]
    assert page.total_sections == 8


def test_other_patterns_are_another_report(store: LedgerStore, settings: Settings, tmp_path: Path) -> None:
    """A changed file is believed at the next start, although the old report is still there."""
    file = tmp_path / "patterns.toml"
    book(store, datetime.now(UTC), {"/a/1": 1, "/a/2": 1})
    for match, section in (("/a/*", "/a/*"), ("/**", "/**")):
        file.write_text(f'[[pattern]]\nmatch = "{match}"\n')
        page = Reports(store, replace(settings, patterns_file=file)).page(Query.read({"group": "patterns"}))
        assert page.sections == [SectionRow(section, 2, 2)]


def test_patterns_that_nobody_named(store: LedgerStore, settings: Settings) -> None:
    """Without patterns in the settings, asking for them is an error that says so."""
    with pytest.raises(QueryError, match="HITLEDGER_PATTERNS_FILE"):
        Reports(store, settings).page(Query.read({"group": "patterns"}))


@pytest.mark.parametrize(
    "text",
    [
        "x", "[[pattern]]", "[[pattern]]\nmatch = 3", '[[pattern]]\nmatch = "api"', '[[rule]]\nmatch = "/"',
        '[[pattern]]\nmatch = "/a"\nexcept = "/b"', '[[pattern]]\nmatch = "/a"\nexcept = [1]',
        '[[pattern]]\nmatch = "/a"\nname = "b"', 'pattern = "x"', '[[pattern]]\nmatch = "/a"\n' * 501,
    ],
)  # fmt: skip
def test_a_bad_file_stops_the_start(store: LedgerStore, settings: Settings, tmp_path: Path, text: str) -> None:
    """What is no list of patterns is a settings error, in one line that names the setting."""
    file = tmp_path / "patterns.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match="HITLEDGER_PATTERNS_FILE") as caught:
        Reports(store, replace(settings, patterns_file=file))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """It is a settings error, too."""
    with pytest.raises(SettingsError, match="HITLEDGER_PATTERNS_FILE"):
        read_patterns(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"group": "0"}, "group"), ({"group": "65"}, "group"), ({"group": "-1"}, "group"), ({"group": "x"}, "group"),
        ({"group": ""}, "group"), ({"under": "/api"}, "under"), ({"under": ""}, "under"), ({"prefix": ""}, "prefix"),
        ({"prefix": "/a" * 5000}, "prefix"), ({"under": "/a/", "prefix": "/b"}, "under"),
        ({"under": "/a/", "group": "1"}, "under"), ({"group": "1", "search": "a"}, "search"),
        ({"prefix": "/a", "color": "red"}, "color"),
    ],
)  # fmt: skip
def test_bad_sections_are_named(parameters: dict[str, str], named: str) -> None:
    """A depth or a prefix that cannot be, or two that contradict each other, are refused by name."""
    with pytest.raises(QueryError) as caught:
        Query.read(parameters)
    assert caught.value.parameter == named
