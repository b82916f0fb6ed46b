"""Broken journal files: of each, what is whole is booked once, and what is not is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hitledger.entries import Watermark
from hitledger.posting import Poster
from hitledger.settings import Settings
from tests import golden
from tests.books import Books

CASES: list[dict[str, Any]] = json.loads((golden.FOLDER / "manifest.json").read_text())


@pytest.fixture(params=[1, 3], ids=["one shard", "three shards"])
def books(settings: Settings, request: pytest.FixtureRequest) -> Iterator[Books]:
    """Books with some number of shards."""
    books = Books(replace(settings, shards=request.param))
    yield books
    books.close()


def marks_of(books: Books, case: dict[str, Any]) -> list[Watermark]:
    """Return the watermarks that the ledger has of a case's file."""
    name = Path(case["file"]).stem
    return [mark for mark in books.store.watermarks([name])[name] if mark]


def put_in_place(books: Books, case: dict[str, Any]) -> Path:
    """Put a case's file into the journal, and what the ledger has of it into the ledger."""
    directory = books.settings.journal_dir
    directory.mkdir(parents=True, exist_ok=True)
    path = Path(shutil.copy(golden.FOLDER / case["case"] / case["file"], directory))
    if case["watermark"]:
        offset, crc = case["watermark"]
        for shard in range(books.store.identity.shards):
            mark = Watermark(offset, crc=crc).encode()
            books.store.reader(shard).hset(books.store.watermarks_key(shard), path.stem, mark)
    return path


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_a_broken_file_is_made_the_best_of(books: Books, case: dict[str, Any]) -> None:
    """Counts, damage and losses are what the manifest says, whoever posts; other files are not held up."""
    path = put_in_place(books, case)
    again = Poster(books.settings, books.store)
    books.note(b"/good")
    for poster in (books.poster, again, books.poster):
        poster.post_now()
        assert books.counts() == case["counts"] | {"/good": 1}
        assert books.store.totals().lines == case["lines"]
        assert books.routes() == case["routes"]
        marks = marks_of(books, case)
        assert sum(mark.damaged for mark in marks) == case["damaged"]
        assert sum(mark.lost for mark in marks) == case["lost"]
    assert path.exists() == (case["becomes"] != "set aside")
    assert path.with_suffix(".quarantined").exists() == (case["becomes"] == "set aside")
    if case["becomes"] == "left alone":
        assert not marks
        assert path.read_bytes() == (golden.FOLDER / case["case"] / case["file"]).read_bytes()
    again.close()


def test_a_long_stretch_without_a_line_feed_is_passed_over(books: Books) -> None:
    """Megabytes of noise cost time, no memory, and no record on either side."""
    data = golden.header() + golden.A + bytes(3 * 2**20 + 17) + golden.B
    books.settings.journal_dir.mkdir(parents=True)
    (books.settings.journal_dir / f"{golden.NAME}.journal").write_bytes(data)
    books.poster.post_now()
    assert books.counts() == {"/a": 1, "/b": 1}
    assert books.poster.status.pending_bytes == 0


def test_the_files_are_what_their_maker_makes() -> None:
    """The files on disk have the format that is written out beside them, and none is missing."""
    assert json.loads(json.dumps(golden.manifest())) == CASES
    for each in golden.all_files():
        assert (golden.FOLDER / each.case / each.file).read_bytes() == each.data, each.case
