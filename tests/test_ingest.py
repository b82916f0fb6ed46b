"""Logs are counted exactly once, whatever is interrupted, repeated, renamed, packed or done twice at a time."""

from __future__ import annotations

import gzip
import random
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import zstandard

from hitledger.audit import audit
from hitledger.entries import MOST_URLS_A_CALL, Batch, Outcome, Part, Watermark
from hitledger.errors import LedgerError, LedgerUnavailableError
from hitledger.ingest import booking
from hitledger.ingest.formats import format_of
from hitledger.ingest.identity import name_of
from hitledger.ingest.run import Options, Run
from hitledger.ledger import LedgerStore
from hitledger.periods import Period
from hitledger.settings import Settings
from tests.logs import counts_of, ingest, log_lines, naive
from tests.support import Valkey

LINES = log_lines(8000, urls=9000)


class Cut(Exception):  # noqa: N818 - what a kill would be
    """The run ends here, as if killed."""


class CutStore(LedgerStore):
    """A ledger that is cut off after so many calls; the call itself is carried out or not."""

    def __init__(self, settings: Settings, calls: int, *, carried_out: bool) -> None:
        super().__init__(settings)
        self.calls = calls
        self.carried_out = carried_out

    def post(self, batches: Sequence[Batch]) -> list[Outcome]:
        """Book, or be cut off."""
        self.calls -= 1
        if self.calls >= 0:
            return super().post(batches)
        if self.carried_out:
            super().post(batches)
        raise Cut


@pytest.fixture(
    params=[
        pytest.param((1, False), id="one shard"),
        pytest.param((3, True), id="three shards with sections", marks=pytest.mark.slow),
    ]
)
def sharded(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    """Settings for ledgers of one shard, and of several that keep sections."""
    shards, keep_sections = request.param
    return replace(settings, shards=shards, keep_sections=keep_sections)


@pytest.fixture
def ledger(sharded: Settings) -> Iterator[LedgerStore]:
    """The ledger of `sharded`."""
    store = LedgerStore(sharded)
    yield store
    store.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log that takes several calls to book."""
    path = tmp_path / "access.log"
    path.write_bytes(LINES)
    assert len(naive(LINES)) > 3 * MOST_URLS_A_CALL
    return path


def test_a_log_counts_once_under_any_name_and_packing(
    sharded: Settings, ledger: LedgerStore, log: Path, tmp_path: Path
) -> None:
    """Given again, renamed, gzipped in pieces or compressed by zstd, the same log adds nothing."""
    (report,) = ingest(sharded, ledger, log)
    assert report.account.counted == sum(naive(LINES).values())
    half = len(LINES) // 2
    (tmp_path / "access.log.2.gz").write_bytes(gzip.compress(LINES[:half]) + gzip.compress(LINES[half:]) + bytes(512))
    pack = zstandard.ZstdCompressor().compress
    (tmp_path / "access.log.3.zst").write_bytes(pack(LINES[:half]) + pack(LINES[half:]))
    log.rename(tmp_path / "access.log.1")
    for path in sorted(tmp_path.glob("access.log.*")):
        (report,) = ingest(sharded, ledger, path)
        assert (report.trouble, report.account.lines, report.known_bytes) == ("", 0, len(LINES))
    assert counts_of(ledger) == naive(LINES)
    assert audit(sharded, ledger).differences == []


def test_a_log_that_grows_is_continued(sharded: Settings, ledger: LedgerStore, log: Path) -> None:
    """Whatever part of a line is there at each look, every line counts once."""
    draw = random.Random(3)
    at = 0
    while at < len(LINES):
        at = min(len(LINES), at + draw.choice([1, 40, 5_000, 100_000]))
        log.write_bytes(LINES[:at])
        ingest(sharded, ledger, log)
        whole = LINES[: LINES.rfind(b"\n", 0, at) + 1]
        assert sum(counts_of(ledger).values()) == sum(naive(whole).values())
    assert counts_of(ledger) == naive(LINES)


@pytest.mark.parametrize("carried_out", [False, True])
def test_an_interrupted_run_is_finished_by_the_next(
    sharded: Settings, ledger: LedgerStore, log: Path, monkeypatch: pytest.MonkeyPatch, carried_out: bool
) -> None:
    """Cut off before or after any call to the ledger, again and again, the counts end up right."""
    monkeypatch.setattr(booking, "CALLS_TOGETHER", 1)
    monkeypatch.setattr(booking, "MOST_ENTRIES", 2500)
    cuts = 0
    for calls in [1, 0, 2, 1, 3, 0, 1, 2, 1, 1] * 10:
        store = CutStore(sharded, calls, carried_out=carried_out)
        try:
            ingest(sharded, store, log)
            break
        except Cut:
            cuts += 1
            assert audit(sharded, ledger).differences == []
        finally:
            store.close()
    assert cuts > 1
    ingest(sharded, ledger, log)
    assert counts_of(ledger) == naive(LINES)


def test_a_range_that_was_begun_is_finished_as_it_was_begun(
    sharded: Settings, ledger: LedgerStore, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file may grow, and hours may grow too old to be kept, between a kill and the next run."""
    monkeypatch.setattr(booking, "CALLS_TOGETHER", 1)
    begun = LINES[: len(LINES) * 4 // 5]
    begun = begun[: begun.rfind(b"\n") + 1]
    log.write_bytes(begun)
    with pytest.raises(Cut):
        ingest(sharded, CutStore(sharded, 2, carried_out=True), log)
    log.write_bytes(LINES)
    monkeypatch.setattr(booking.Booking, "_whole_days_before", lambda _: 2**31)
    ingest(sharded, ledger, log)
    assert counts_of(ledger) == naive(LINES)


def test_other_settings_in_the_middle_of_a_range_are_refused(
    settings: Settings, store: LedgerStore, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is half booked under one rule is not finished under another: it is said, and nothing changes."""
    monkeypatch.setattr(booking, "CALLS_TOGETHER", 1)
    with pytest.raises(Cut):
        ingest(settings, CutStore(settings, 2, carried_out=True), log)
    before = counts_of(store)
    with pytest.raises(LedgerError, match="other settings"):
        ingest(replace(settings, merge_trailing_slash=True), store, log)
    assert counts_of(store) == before
    ingest(settings, store, log)
    assert counts_of(store) == naive(LINES)


@pytest.mark.slow
def test_two_at_once_do_not_double(sharded: Settings, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four runs on one log, side by side, count each line once."""
    monkeypatch.setattr(booking, "CALLS_TOGETHER", 1)
    monkeypatch.setattr(booking, "MOST_ENTRIES", 1500)
    stores = [LedgerStore(sharded) for _ in range(4)]
    stores[0].open()
    threads = [threading.Thread(target=ingest, args=(sharded, store, log)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts_of(stores[0]) == naive(LINES)
    assert audit(sharded, stores[0]).differences == []
    for store in stores:
        store.close()


def test_a_reply_that_is_lost_does_not_double(sharded: Settings, ledger: LedgerStore, log: Path) -> None:
    """Where nobody knows whether a call was carried out, the run ends, and the next one finds out."""

    class Deaf(LedgerStore):
        def post(self, batches: Sequence[Batch]) -> list[Outcome]:
            error = LedgerUnavailableError("gone")
            return [
                replace(outcome, word="unknown", error=error) if batch.hits else outcome
                for batch, outcome in zip(batches, super().post(batches), strict=True)
            ]

    with pytest.raises(LedgerUnavailableError):
        ingest(sharded, Deaf(sharded), log)
    assert sum(counts_of(ledger).values()) > 0
    ingest(sharded, ledger, log)
    assert counts_of(ledger) == naive(LINES)


def test_logs_that_begin_alike_are_told_apart(settings: Settings, store: LedgerStore, tmp_path: Path) -> None:
    """Three logs share their first lines; each counts once, in any order, however often, and so does a short one."""
    head = log_lines(1)
    bodies = [head + log_lines(count, seed) for seed, count in ((1, 30), (2, 2000), (3, 300), (4, 3))]
    paths = []
    for number, body in enumerate(bodies):
        paths.append(tmp_path / f"host{number}.log")
        paths[-1].write_bytes(body)
    for path in [*paths, *reversed(paths)]:
        ingest(settings, store, path)
    expected: dict[str, int] = {}
    for body in bodies:
        for url, count in naive(body).items():
            expected[url] = expected.get(url, 0) + count
    assert counts_of(store) == expected


def test_a_shorter_copy_adds_nothing(settings: Settings, store: LedgerStore, log: Path, tmp_path: Path) -> None:
    """A copy that was made earlier, or is only packed in part yet, is the log whose beginning it is."""
    ingest(settings, store, log)
    for size in (300, 5000, 100_000, len(LINES) - 1):
        (tmp_path / "copy.log").write_bytes(LINES[:size])
        (report,) = ingest(settings, store, tmp_path / "copy.log")
        assert (report.is_copy or report.unfinished_bytes > 0, report.account.lines) == (True, 0)
    packed = gzip.compress(LINES)
    (tmp_path / "copy.gz").write_bytes(packed[: len(packed) // 2])
    (report,) = ingest(settings, store, tmp_path / "copy.gz")
    assert report.account.lines == 0
    assert counts_of(store) == naive(LINES)


def test_equal_logs_of_two_sources_are_two_logs(settings: Settings, store: LedgerStore, log: Path) -> None:
    """Two hosts' logs may be equal byte by byte: --source sets them apart."""
    for source in ("web1", "web2", "web1"):
        ingest(settings, store, log, source=source)
    assert counts_of(store) == {url: 2 * count for url, count in naive(LINES).items()}


def test_a_packed_log_that_is_cut_off_is_finished_later(settings: Settings, store: LedgerStore, tmp_path: Path) -> None:
    """What can be unpacked is counted, the trouble is said, and the whole file adds the rest."""
    packed = gzip.compress(LINES)
    path = tmp_path / "access.log.gz"
    path.write_bytes(packed[: len(packed) // 2])
    (report,) = ingest(settings, store, path)
    assert "cut off" in report.trouble
    assert 0 < sum(counts_of(store).values()) < sum(naive(LINES).values())
    path.write_bytes(packed)
    (report,) = ingest(settings, store, path)
    assert report.trouble == ""
    assert counts_of(store) == naive(LINES)


def test_a_packed_log_that_is_damaged_counts_up_to_there(
    settings: Settings, store: LedgerStore, tmp_path: Path
) -> None:
    """A flipped byte spoils what follows, is said in one line, and costs nothing that came before."""
    packed = bytearray(gzip.compress(LINES, 0))
    at = len(packed) * 3 // 4
    packed[-5] ^= 1
    path = tmp_path / "access.log.gz"
    path.write_bytes(packed)
    (report,) = ingest(settings, store, path)
    assert "damaged" in report.trouble
    assert at > 0
    assert sum(counts_of(store).values()) > 0
    path.write_bytes(gzip.compress(LINES))
    ingest(settings, store, path)
    assert counts_of(store) == naive(LINES)


def test_a_last_line_without_its_end_waits_in_a_file_and_counts_where_nothing_can_follow(
    settings: Settings, store: LedgerStore, tmp_path: Path
) -> None:
    """A plain file's last line may still be being written; a packed file's is all there is, and counts once."""
    lines = log_lines(50)
    path = tmp_path / "access.log"
    path.write_bytes(lines[:-1])
    (report,) = ingest(settings, store, path)
    assert report.unfinished_bytes > 0
    (tmp_path / "access.log.gz").write_bytes(gzip.compress(lines[:-1]))
    ingest(settings, store, tmp_path / "access.log.gz")
    assert counts_of(store) == naive(lines)
    more = lines + log_lines(20, 9)
    path.write_bytes(more)
    (report,) = ingest(settings, store, path)
    assert report.account.lines == 20  # what ends the line that counted before is no line
    assert counts_of(store) == naive(more)


def test_an_empty_file_is_nothing_yet(settings: Settings, store: LedgerStore, tmp_path: Path) -> None:
    """Nothing, or the beginning of a first line, is no log and no trouble."""
    for content in (b"", b"192.0.2.1 - - [23/N"):
        (tmp_path / "access.log").write_bytes(content)
        (report,) = ingest(settings, store, tmp_path / "access.log")
        assert (report.is_empty, report.trouble) == (True, "")


def test_a_log_may_begin_with_empty_lines(settings: Settings, store: LedgerStore, tmp_path: Path) -> None:
    """Empty lines alone are nothing yet; the lines behind them count, and two such logs are two."""
    path, other = tmp_path / "access.log", tmp_path / "other.log"
    whole = log_lines(100)
    for content in (b"\n\n", b"\n\n" + whole, b"\n\n" + whole * 2):
        path.write_bytes(content)
        ingest(settings, store, path)
    other.write_bytes(b"\n\n" + whole[whole.index(b"\n") :])
    ingest(settings, store, other)
    assert counts_of(store) == naive(whole * 2 + other.read_bytes())


def test_history_lands_in_its_own_periods(settings: Settings, store: LedgerStore, tmp_path: Path) -> None:
    """Hours, days and months are those of the log; what is older than they are kept counts for all time."""
    now = datetime.now(UTC).replace(minute=30)
    times = {"/now": now, "/day": now - timedelta(days=10), "/month": now - timedelta(days=200)}
    times["/ancient"] = now - timedelta(days=9000)
    lines = [f'- - - [{time:%d/%b/%Y:%H:%M:%S} +0000] "GET {path} HTTP/1.1" 200 1\n' for path, time in times.items()]
    (tmp_path / "access.log").write_text("".join(lines))
    ingest(settings, store, tmp_path / "access.log")
    assert counts_of(store) == dict.fromkeys(times, 1)

    def members(kind: str, path: str) -> list[str]:
        key = store.set_key(0, Period.containing(kind, times[path]))
        return [str(name) for name in store.reader(0).zrange(key, 0, -1)]

    assert members("hour", "/now") == ["/now"]
    assert members("day", "/day") == ["/day"]
    assert members("month", "/month") == ["/month"]
    for kind, path in (("hour", "/day"), ("day", "/month"), ("month", "/ancient")):
        assert members(kind, path) == []


def test_the_ledger_never_forgets_a_log(settings: Settings, store: LedgerStore, log: Path) -> None:
    """Watermarks of journals go after 35 days; those of logs stay, for a log may come again after years."""
    ingest(settings, store, log)
    assert store.retire("f" * 16) == 0
    ingest(settings, store, log)
    assert counts_of(store) == naive(LINES)


def test_a_ledger_that_fell_back_is_brought_forward(
    settings: Settings, store: LedgerStore, log: Path, valkey: Valkey
) -> None:
    """Counts and watermark fall back together: given again, the log adds what the ledger lost."""
    log.write_bytes(LINES[: LINES.find(b"\n", 100_000) + 1])
    ingest(settings, store, log)
    client = valkey.client
    backup = {str(key): client.dump(key) for key in client.scan_iter(f"{settings.key_prefix}:*")}
    log.write_bytes(LINES)
    ingest(settings, store, log)
    for key, value in backup.items():
        client.restore(key, 0, value or b"", replace=True)
    ingest(settings, store, log)
    assert counts_of(store) == naive(LINES)


def test_bad_files_give_one_clear_line(settings: Settings, store: LedgerStore, tmp_path: Path) -> None:
    """What is no log, or packed by something else, is said, and the files beside it are counted."""
    contents = {"a.log": b"no\nlog\n", "b.log": b"BZh91AY", "c.log": zlib.compress(LINES), "d.log": log_lines(10)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    reports = ingest(settings, store, *(tmp_path / name for name in contents), tmp_path / "none.log")
    troubles = [report.trouble for report in reports]
    assert "its format is none of the known ones" in troubles[0]
    assert "packed by bzip2" in troubles[1]
    assert "its format is none" in troubles[2] or troubles[2] == ""
    assert troubles[3] == ""
    assert "cannot be read: No such file" in troubles[4]
    assert all("\n" not in trouble for trouble in troubles)
    assert counts_of(store) == naive(contents["d.log"])


def test_a_log_in_another_format_than_given_is_left_alone(settings: Settings, store: LedgerStore, log: Path) -> None:
    """A wrong --format books nothing and moves no watermark."""
    report = Run(settings, store, Options(format_of("json"))).ingest(log)
    assert "none of its first lines is in the format given" in report.trouble
    first_line = LINES.partition(b"\n")[0]
    assert store.watermarks([name_of(first_line, "", 0)]) == {name_of(first_line, "", 0): [None]}
    ingest(settings, store, log)
    assert counts_of(store) == naive(LINES)


def test_watermarks_of_parts_are_read_as_they_were_written() -> None:
    """A watermark in the middle of a range is one text, and comes back as it was."""
    mark = Watermark(5, 6, 7, 0, 0, Part(100, 1000, 2**32 - 1, 3))
    assert Watermark.decode(mark.encode()) == mark
    assert Watermark.decode(Watermark(5, 6, 7).encode()).part is None
