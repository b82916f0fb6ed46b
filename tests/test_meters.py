"""meters: figures of many processes, which nothing that ends or is killed takes back."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from hitledger.meters import (
    BUCKETS_MS,
    CELLS,
    LAST,
    MOST_ROWS,
    NAME_BYTES,
    OTHERS,
    ROW_BYTES,
    Meters,
)
from tests.processes import Running

ADDING = """
import sys
from pathlib import Path
from hitledger.meters import Meters
meters = Meters(Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    meters.add("seen", 0)
meters.save()
print("added", flush=True)
sys.stdin.read() if len(sys.argv) > 3 else None
import time
while len(sys.argv) > 3:
    time.sleep(60)
"""


def files_of(directory: Path) -> list[str]:
    """Return the names of the files that there are."""
    return sorted(path.name for path in directory.iterdir())


def test_what_was_added_is_there(tmp_path: Path) -> None:
    """Numbers and durations are read as they were added, from the first moment on."""
    meters = Meters(tmp_path)
    meters.add("seen", 0)
    meters.add("seen", 3, 5)
    for milliseconds in (0.4, 0.5, 0.6, 10_001):
        meters.observe("took", int(milliseconds * 1_000_000))
    found = meters.read()
    assert found["seen"] == [1, 0, 0, 5] + [0] * (CELLS - 4)
    assert found["took"][0] == 10_002_500_000
    assert found["took"][1:] == [2, 1] + [0] * (len(BUCKETS_MS) - 2) + [1]
    meters.close()


def test_processes_add_up_whatever_becomes_of_them(tmp_path: Path) -> None:
    """Figures of processes that live, ended and were killed are one sum, and no more files stay than lived at once."""
    meters = Meters(tmp_path)
    meters.add("seen", 0)
    for turn in range(1, 4):
        with (
            Running.python(ADDING, str(tmp_path), "100", "stay") as one,
            Running.python(ADDING, str(tmp_path), "10") as two,
        ):
            one.line_with("added")
            assert two.process.wait(30) == 0
            assert meters.read()["seen"][0] == 1 + 110 * turn
            one.end(signal.SIGKILL)
    assert len(files_of(tmp_path)) <= 3
    assert meters.read()["seen"][0] == 331
    meters.close()


def test_the_next_process_goes_on(tmp_path: Path) -> None:
    """A file that is free is taken over with its numbers; one in use is not."""
    first, second = Meters(tmp_path), Meters(tmp_path)
    first.add("seen", 0, 3)
    second.add("seen", 0, 4)
    assert files_of(tmp_path) == ["0.meters", "1.meters"]
    first.close()
    third = Meters(tmp_path)
    third.add("seen", 0, 5)
    assert files_of(tmp_path) == ["0.meters", "1.meters"]
    second.save()
    assert third.read()["seen"][0] == second.read()["seen"][0] == 12
    second.close()
    third.close()


def test_what_is_last_is_not_added_up(tmp_path: Path) -> None:
    """Of rows that hold a time, the latest counts, whichever process wrote it."""
    one, two = Meters(tmp_path), Meters(tmp_path)
    one.set(LAST + "posted", 20, 7)
    two.set(LAST + "posted", 10, 9)
    assert one.read()[LAST + "posted"][:2] == two.read()[LAST + "posted"][:2] == [20, 7]
    one.close()
    two.close()
    three = Meters(tmp_path)
    three.set(LAST + "posted", 15, 1)
    assert three.read()[LAST + "posted"][:2] == [15, 1]  # it took the first file over
    three.close()


def test_a_forked_process_has_its_own(tmp_path: Path) -> None:
    """After a fork, parent and child write to files of their own, and no number counts twice."""
    meters = Meters(tmp_path)
    meters.add("seen", 0, 100)
    child = os.fork()
    if child == 0:
        meters.add("seen", 0)
        meters.close()
        os._exit(0)
    os.waitpid(child, 0)
    meters.add("seen", 0)
    assert meters.read()["seen"][0] == 102
    assert files_of(tmp_path) == ["0.meters", "1.meters"]
    meters.close()


def test_threads_lose_nothing(tmp_path: Path) -> None:
    """Any number of threads may add at once."""
    meters = Meters(tmp_path)

    def add() -> None:
        for _ in range(2000):
            meters.add("seen", 0)

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        meters.save()
    assert meters.read()["seen"][0] == 16_000
    meters.close()


def test_names_are_bounded(tmp_path: Path) -> None:
    """Beyond the most rows, and for names too long, numbers go into one row, and none is lost."""
    meters = Meters(tmp_path)
    for number in range(MOST_ROWS + 20):
        meters.add(f"row {number}", 0)
    meters.add("x" * (NAME_BYTES + 1), 0)
    found = meters.read()
    assert found[OTHERS][0] == 21
    assert sum(cells[0] for cells in found.values()) == MOST_ROWS + 21
    meters.close()
    assert Meters(tmp_path).read() == found


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda data: data[:0], 0),
        (lambda data: b"another version".ljust(ROW_BYTES) + data[ROW_BYTES:], 0),
        (lambda data: data[: ROW_BYTES * 2 + 10], 1),
        (lambda data: data[: ROW_BYTES * 2 + 9] + b"?" + data[ROW_BYTES * 2 + 10 :], 1),
        (lambda data: os.urandom(len(data)), 0),
    ],
)
def test_a_damaged_file_is_gone_on_from(tmp_path: Path, damage: object, left: int) -> None:
    """Of a file that is torn, foreign or of another version, the whole rows before the damage are taken."""
    meters = Meters(tmp_path)
    for name in ("one", "two", "three"):
        meters.add(name, 0)
    meters.close()
    path = tmp_path / "0.meters"
    assert callable(damage)
    path.write_bytes(damage(path.read_bytes()))
    meters = Meters(tmp_path)
    assert len(meters.read()) == left
    meters.add("three", 0)
    assert meters.read()["three"][0] == 1
    meters.close()


def test_without_a_folder_numbers_stay_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where no file can be had, it is said once, nothing fails, and this process's numbers are there."""
    (tmp_path / "file").touch()
    meters = Meters(tmp_path / "file" / "meters")
    for _ in range(10):
        meters.add("seen", 0)
    assert meters.read()["seen"][0] == 10
    assert len(caplog.records) == 1
    (tmp_path / "file").unlink()
    meters._retry_at = 0.0
    meters.add("seen", 0)
    assert meters.read()["seen"][0] == 11
    assert files_of(tmp_path / "file" / "meters") == ["0.meters"]
    meters.close()
