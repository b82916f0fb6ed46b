"""webserver: what a web process is set to before it serves. Serving itself is in test_serve."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hitledger.webserver import ARENAS

MANY_THREADS = """
import ctypes, sys, threading

if sys.argv[2:]:
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

libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
report = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, report)
libc.fclose(report)
"""
"""Has glibc write into a file what it knows of its memory; each heap in it is an arena, and so is the first."""

POOL = """
from hitledger.webserver import share_memory

share_memory()
import pyarrow

print(pyarrow.default_memory_pool().backend_name)
"""


def python(script: str, *words: str) -> str:
    """Run a script, and return what it prints."""
    return subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True).stdout


def arenas(report: Path, *words: str) -> int:
    """Return how many arenas the threads of a process use, the first among them."""
    python(MANY_THREADS, str(report), *words)
    return report.read_text().count("<heap nr=")


def test_threads_share_memory(tmp_path: Path) -> None:
    """Sixteen threads that need memory at once have one arena beside the first, and more where nothing is set."""
    assert arenas(tmp_path / "as it comes") > ARENAS
    assert arenas(tmp_path / "shared", "few") == ARENAS


def test_arrow_gives_memory_back() -> None:
    """What writes Parquet takes its memory where everybody does, and not from pools that keep it."""
    pytest.importorskip("pyarrow", reason="exports as Parquet need pyarrow")
    assert python(POOL).strip() == "system"
