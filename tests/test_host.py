"""host: what the real machine is asked while other processes work on the same files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hitledger.host import Host
from hitledger.settings import Settings
from tests.books import Books


@contextmanager
def going(path: Path) -> Iterator[None]:
    """Have another process delete a file whenever its folder has been listed, and its size not been asked for."""
    listing = os.scandir

    @contextmanager
    def scandir(folder: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
        with listing(folder) as entries:
            found = list(entries)
        path.unlink(missing_ok=True)
        yield iter(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hitledger.host.os.scandir", scandir)
        yield


def test_a_file_that_goes_takes_no_other_with_it(tmp_path: Path) -> None:
    """Deleted while its folder is looked at, it is not there, and all others are; of no folder there is none."""
    for name in ("first.journal", "goes.journal", "last.journal", "other"):
        (tmp_path / name).write_text(name)
    with going(tmp_path / "goes.journal"):
        assert Host().files(tmp_path, ".journal") == [(tmp_path / "first.journal", 13), (tmp_path / "last.journal", 12)]
    assert Host().files(tmp_path / "none", ".journal") == []


def test_readers_see_their_hits_while_another_process_keeps_house(settings: Settings) -> None:
    """A file that is deleted at the moment of a report leaves no other's hits out of it."""
    books = Books(settings)
    books.note(b"/a")
    books.poster.post_now()
    books.note(b"/a")
    other = settings.journal_dir / f"{'0' * 16}-{'a' * 32}.journal"
    other.touch()
    with going(other):
        books.poster.post_now()
    assert books.counts() == {"/a": 2}
    books.close()
