"""The command line's work on the books: what `audit` and `reset` print, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hitledger import journal
from hitledger.cli import commands
from hitledger.settings import Settings
from tests.books import Books


def run(settings: Settings, *words: str, typed: str = "") -> Result:
    """Run a command on a journal and a ledger."""
    environment = {
        "HITLEDGER_REDIS_URL": settings.redis_url,
        "HITLEDGER_DATA_DIR": str(settings.data_dir),
        "HITLEDGER_KEY_PREFIX": settings.key_prefix,
    }
    return CliRunner(env=environment).invoke(commands, words, input=typed, standalone_mode=False)


@pytest.fixture
def books(settings: Settings) -> Books:
    """Three hits posted, and one pending."""
    books = Books(settings)
    books.note(b"/a", b"/a", b"/b")
    books.poster.post_now()
    books.note(b"/pending")
    return books


def test_audit_says_that_books_are_in_balance(books: Books) -> None:
    """Sound books end with 0, the balance, and a sentence."""
    result = run(books.settings, "audit")
    assert result.return_value == 0
    assert "In balance" in result.output
    result = run(books.settings, "audit", "--json")
    assert json.loads(result.output)["balance"] == {
        "received": 4, "posted": 3, "pending": 1, "refused": 0, "lost": 0,
    }  # fmt: skip


def test_audit_tells_of_each_journal_in_hits(books: Books) -> None:
    """Each file is an entry of its own: what it received, in hits and not in records, and what became of that."""
    (first,) = books.files()
    assert books.journal.append(journal.PATH, b"/mail", 5)
    (second,) = set(books.files()) - {first}
    nothing = {"refused": 0, "lost": 0}
    entries = json.loads(run(books.settings, "audit", "--json").output)["journals"]
    for each in entries:
        del each["state"]
    assert sorted(entries, key=lambda each: each["received"]) == [
        {"journal": first.stem, "received": 4, "posted": 3, "pending": 1} | nothing,
        {"journal": second.stem, "received": 5, "posted": 0, "pending": 5} | nothing,
    ]


def test_audit_ends_with_1_and_names_each_difference(books: Books) -> None:
    """A count that was changed by hand is a line and an exit status."""
    books.store.reader(0).zincrby(books.store.set_key(0), 2, "/a")
    result = run(books.settings, "audit")
    assert result.return_value == 1
    assert "DIFFERENCE shard 0" in result.output
    assert "+2" in result.output


def test_reset_asks_and_then_starts_anew(books: Books) -> None:
    """No answer changes nothing; yes drops everything, what was pending here too."""
    result = run(books.settings, "reset", typed="n\n")
    assert "Drop 3 requests to 2 URLs?" in result.output
    assert books.counts() == {"/a": 2, "/b": 1}
    result = run(books.settings, "reset", "--yes")
    assert result.output == "Dropped 4 requests. Counting goes on from zero.\n"
    assert books.counts() == {}
    assert run(books.settings, "audit").return_value == 0


def test_sections_are_kept_and_dropped(books: Books) -> None:
    """`sections` brings a ledger to keep its sections, ends that, and says what there is."""
    books.note(b"/a/b", b"/a/c")
    books.poster.post_now()
    for words, state in ((["keep"], "kept"), ([], "kept"), (["drop"], "absent"), (["status"], "absent")):
        assert run(books.settings, "sections", *words).output.splitlines()[-1] == f"Sections are {state}."


def test_export_writes_everything(books: Books, tmp_path: Path) -> None:
    """What is pending is posted first; a file and standard output get the same rows."""
    target = tmp_path / "out.csv"
    assert run(books.settings, "export", "--format", "csv", "--output", str(target)).exit_code == 0
    assert target.read_text().splitlines() == ["url,requests", "/a,2", "/pending,1", "/b,1"]
    result = run(books.settings, "export", "--prefix", "/p")
    assert result.stdout == '{"url":"/pending","requests":1}\n'
