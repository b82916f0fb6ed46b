"""webserver: what a web process is set to before it serves. Serving itself is in test_serve."""

from __future__ import annotations

import subprocess
import sys

import pytest

MANY_THREADS = """
import sys, threading
from pathlib import Path

if sys.argv[1:]:
    from hitledger.webserver import share_memory
    share_memory()

barrier = threading.Barrier(16)

def work():
    barrier.wait()
    held = [bytes(2000) for _ in range(500)]
    barrier.wait()

threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
arenas = 0
for line in Path("/proc/self/maps").read_text().splitlines():
    words = line.split()
    start = int(words[0].partition("-")[0], 16)
    arenas += len(words) == 5 and words[1].startswith("rw") and start % (64 << 20) == 0
print(arenas)
"""
"""Says how many arenas glibc has beside the first: each begins at a multiple of 64 MiB."""

POOL = """
from hitledger.webserver import share_memory

share_memory()
import pyarrow

print(pyarrow.default_memory_pool().backend_name)
"""


def python(script: str, *words: str) -> str:
    """Run a script, and return what it prints."""
    return subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True).stdout


def arenas(*words: str) -> int:
    """Return how many further arenas the threads of a process use."""
    return int(python(MANY_THREADS, *words))


def test_threads_share_memory() -> None:
    """Sixteen threads that need memory at once have one arena beside the first, and more where nothing is set."""
    assert arenas() > 1
    assert arenas("few") <= 1


def test_arrow_gives_memory_back() -> None:
    """What writes Parquet takes its memory where everybody does, and not from pools that keep it."""
    pytest.importorskip("pyarrow", reason="exports as Parquet need pyarrow")
    assert python(POOL).strip() == "system"
