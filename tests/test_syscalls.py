"""Every system call on a hit's path and in posting fails once, in every way: nothing is lost but what is told."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from hitledger.entries import Watermark
from hitledger.journal import PATH, TALLY_OFFSET, JournalWriter, make_tally
from hitledger.settings import Settings
from tests.books import Books
from tests.syscalls import CHANGING, FAULTS, FAULTS_OF_CHANGES, FILE_BYTES, HITS, Nursery, Run, injection_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("strace"), reason="needs strace"),
]


def fresh(settings: Settings, number: int) -> Settings:
    """Return settings for another ledger and another journal."""
    data_dir, prefix = settings.data_dir / str(number), f"{settings.key_prefix}-{number}"
    return replace(settings, data_dir=data_dir, key_prefix=prefix, journal_hold_seconds=0)


def posted(settings: Settings) -> tuple[Counter[str], int]:
    """Post what a journal holds, as a process that knows of nothing does, and return counts and losses."""
    books = Books(settings)
    books.poster.post_now()
    counts = Counter(books.counts())
    marks = books.store.reader(0).hvals(books.store.watermarks_key(0))
    books.close()
    return counts, sum(Watermark.decode(str(mark)).lost for mark in marks)


Point = tuple[str, str, int, str]
"""A system call, a fault, which of the calls, and what strace is told."""


def points(calls: Counter[str]) -> Iterator[Point]:
    """Yield each call, each fault and each place, with what strace injects."""
    for call, number_of in sorted(calls.items()):
        for fault in FAULTS_OF_CHANGES if call in CHANGING else FAULTS:
            for number in range(1, number_of + 1):
                inject = injection_of(call, fault, number)
                if inject:
                    yield call, fault, number, inject


Judge = Callable[[Nursery, Settings, str, str], tuple[Run, str]]
"""Has a worker work with a fault, and returns what came of it, and what is wrong with that."""


def sweep(settings: Settings, folder: Path, plain: Run, judge: Judge) -> list[str]:
    """Try every point, on two cores; return what is wrong."""
    numbers, waiting = count(1), list(points(plain.calls))

    def work(nursery: Nursery) -> tuple[int, list[str]]:
        injected, wrong = 0, []
        with nursery, suppress(IndexError):
            while True:
                call, fault, number, inject = waiting.pop()
                run, problem = judge(nursery, fresh(settings, next(numbers)), fault, inject)
                injected += run.injected
                if not run.finished and fault != "kill":
                    problem = "the worker did not come to its end"
                if problem:
                    wrong.append(f"{fault} at {call} {number}: {problem}")
        return injected, wrong

    nurseries = [Nursery(folder / str(number), str(settings.redis_url)) for number in range(2)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(work, nurseries))
    injected = sum(each for each, _ in found)
    print(f"{injected} faults injected into {plain.calls.total()} calls: {dict(plain.calls)}")  # noqa: T201
    assert injected > 200
    return [problem for _, wrong in found for problem in wrong]


def what_is_wrong(run: Run, counts: Counter[str], lost: int, *, can_tell: bool) -> str:
    """Return what is wrong with what came of noting hits, if anything."""
    kept = [f"/{number}" for number, word in enumerate(run.told) if word == b"1"]
    refused = run.told.count(b"0")
    doubled = [url for url, hits in counts.items() if hits > 1]
    missing = [url for url in kept if not counts[url]]
    if doubled or missing:
        return f"doubled {doubled}, lost {missing}"
    if run.finished and len(run.told) != HITS:
        return f"only {len(run.told)} requests were answered"
    if run.finished and (counts.total() != len(kept) or lost > refused or (can_tell and lost != refused)):
        return f"{len(kept)} kept, {counts.total()} counted; {refused} lost, {lost} told"
    if counts.total() > len(kept) + 1:
        return f"{counts.total()} counted, {len(kept)} answered"
    return ""


@pytest.mark.parametrize("sync", ["interval", "each"])
def test_noting_hits(settings: Settings, short_path: Path, sync: str) -> None:
    """Whichever call fails in whichever way: requests go on, kept hits count once, others are told as lost."""
    base = replace(settings, journal_sync=sync)

    def judge(nursery: Nursery, own: Settings, fault: str, inject: str) -> tuple[Run, str]:
        run = nursery.run("append", own, inject)
        counts, lost = posted(own)
        return run, what_is_wrong(run, counts, lost, can_tell="for good" not in fault)

    with Nursery(short_path / "plain", str(base.redis_url)) as nursery:
        plain = nursery.run("append", fresh(base, 0))
    assert plain.told == [b"1"] * HITS
    assert not (wrong := sweep(base, short_path, plain, judge)), "\n".join(wrong)


def journal_with_hits(settings: Settings) -> Counter[str]:
    """Leave the files of a writer that is gone, with a loss beside them, and return what they hold."""
    writer = JournalWriter(settings.journal_dir, file_bytes=FILE_BYTES)
    for number in range(HITS):
        writer.append(PATH, b"/%d" % (number % 7))
    writer.close()
    with max(settings.journal_dir.glob("*.journal")).open("r+b") as file:
        file.seek(TALLY_OFFSET)
        file.write(make_tally(1))
    return Counter(f"/{number % 7}" for number in range(HITS))


def test_posting(settings: Settings, short_path: Path) -> None:
    """Whichever call fails in whichever way: what the journal holds is counted once, by whoever comes after."""

    def judge(nursery: Nursery, own: Settings, fault: str, inject: str) -> tuple[Run, str]:
        expected = journal_with_hits(own)
        run = nursery.run("post", own, inject)
        counts, lost = posted(own)
        if counts != expected or lost != 1:
            return run, f"{counts - expected} too many, {expected - counts} too few, {lost} lost"
        if run.told[-2:] == [b"0", b"0"] and "for good" not in fault:
            return run, "posting did not go on"
        return run, ""

    with Nursery(short_path / "plain", str(settings.redis_url)) as nursery:
        first = fresh(settings, 0)
        journal_with_hits(first)
        plain = nursery.run("post", first)
    assert plain.told == [b"1"] * 5
    assert not (wrong := sweep(settings, short_path, plain, judge)), "\n".join(wrong)
