"""webserver: what a web process is set to before it serves. Serving itself is in test_serve."""

from __future__ import annotations

import subprocess
import sys

MANY_THREADS = """
import sys, threading
from pathlib import Path

if sys.argv[1:]:
    from hitledger.webserver import keep_few_arenas
    keep_few_arenas()

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


def arenas(*words: str) -> int:
    """Return how many further arenas the threads of a process use."""
    command = [sys.executable, "-c", MANY_THREADS, *words]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_threads_share_memory() -> None:
    """Sixteen threads that need memory at once have one arena beside the first, and more where nothing is set."""
    assert arenas() > 1
    assert arenas("few") <= 1
