"""`hitledger ingest` as people and scripts use it: what it prints, and how it ends."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
from tests.logs import SAMPLES, counts_of, log_lines, naive


def run(settings: Settings, *words: str | Path, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own."""
    environment = {
        "HITLEDGER_REDIS_URL": str(settings.redis_url),
        "HITLEDGER_DATA_DIR": str(settings.data_dir),
        "HITLEDGER_KEY_PREFIX": settings.key_prefix,
    }
    command = [sys.executable, "-m", "hitledger", "ingest", *map(str, words)]
    return subprocess.run(command, env=environment, input=given, capture_output=True, timeout=120, check=False)


def test_a_dry_run_asks_no_ledger(settings: Settings) -> None:
    """It says what would count, shows the first bad lines, and leaves no key behind."""
    done = run(settings, "--dry-run", SAMPLES / "nginx.log")
    text = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")
    assert "9 of 14 lines counted" in text
    assert "bad: 1 no request" in text
    assert 'garbage for a request line: 192.0.2.9 - - [23/Nov/2026:23:01:01 +0000] "\\x16' in text
    client = redis.Redis.from_url(str(settings.redis_url))
    assert list(client.scan_iter(f"{settings.key_prefix}:*")) == []


def test_the_summary_for_programs(settings: Settings, store: LedgerStore) -> None:
    """--json has the whole account, for all files together and for each."""
    words = ("--json", SAMPLES / "nginx.log", SAMPLES / "haproxy.log")
    first, second = (json.loads(run(settings, *words).stdout) for _ in range(2))
    assert (first["lines"], first["counted"], first["urls"]) == (19, 11, 9)
    assert first["skipped"] == {"a tunnel (CONNECT)": 1, "a path that is not counted": 1, "never answered": 1}
    assert (first["from"], first["to"]) == ("2026-11-23T22:59Z", "2026-11-23T23:01Z")
    assert [(each["format"], each["state"]) for each in first["files"]] == [("common", "new"), ("haproxy", "new")]
    assert [(each["state"], each["lines"]) for each in second["files"]] == [("counted before", 0)] * 2
    assert sum(counts_of(store).values()) == 11


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_standard_input_is_a_log_like_any_other(
    settings: Settings, store: LedgerStore, tmp_path: Path, packed: bool
) -> None:
    """A pipe counts once, packed or not, is continued by a longer one, and is the same log as the file."""
    log = log_lines(3000, urls=4000)
    cut = log.find(b"\n", len(log) // 2) + 1
    for part in (log[:cut], log[:cut], log, log[:cut]):
        done = run(settings, "-", given=gzip.compress(part) if packed else part)
        assert (done.returncode, done.stderr) == (0, b"")
    assert counts_of(store) == naive(log)
    (tmp_path / "access.log").write_bytes(log)
    assert b"0 of 0 lines counted" in run(settings, tmp_path / "access.log").stdout
    other = log[: log.find(b"\n") + 1] + log_lines(20, 9)
    run(settings, "-", given=other)
    assert sum(counts_of(store).values()) == sum(naive(log).values()) + sum(naive(other).values())


def test_a_last_line_of_standard_input_needs_no_line_feed(settings: Settings, store: LedgerStore) -> None:
    """What a script prints without one counts."""
    run(settings, "-", given=b'- - - [23/Nov/2026:23:00:00 +0000] "GET /one HTTP/1.1" 200')
    assert counts_of(store) == {"/one": 1}


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["{folder}/none.log"], 2, "does not exist"),
        (["--format", "comon", "{folder}/good.log"], 2, "There is no log format 'comon'"),
        (["--format", "$request", "{folder}/good.log"], 2, "has no $time_local"),
        (["--tz", "Mars/Olympus", "{folder}/good.log"], 2, "There is no time zone 'Mars/Olympus'"),
        (["--follow", "-"], 2, "standard input ends by itself"),
        ([], 2, "Missing argument"),
        (["{folder}/bad.log", "{folder}/good.log"], 1, "its format is none of the known ones"),
        (["{folder}/bzip2.log"], 1, "packed by bzip2"),
    ],
)
def test_bad_input_gives_one_clear_line(
    settings: Settings, store: LedgerStore, tmp_path: Path, words: list[str], status: int, text: str
) -> None:
    """Wrong usage is 2 and counts nothing; a file that cannot be read is 1, and the others are counted."""
    (tmp_path / "good.log").write_bytes(log_lines(10))
    (tmp_path / "bad.log").write_bytes(b"these are\nno requests\n")
    (tmp_path / "bzip2.log").write_bytes(b"BZh91AY&SY")
    done = run(settings, *(word.format(folder=tmp_path) for word in words))
    error = done.stderr.decode()
    assert (done.returncode, error.count("\n")) == (status, 1)
    assert text in error
    assert counts_of(store) == (naive(log_lines(10)) if status == 1 and len(words) > 1 else {})


def test_a_ledger_that_is_away_is_one_line(tmp_path: Path) -> None:
    """Exit status 1, and what to do."""
    (tmp_path / "good.log").write_bytes(log_lines(10))
    environment = {"HITLEDGER_REDIS_URL": f"unix://{tmp_path}/nowhere.sock"}
    command = [sys.executable, "-m", "hitledger", "ingest", str(tmp_path / "good.log")]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"The ledger cannot be reached." in done.stderr
