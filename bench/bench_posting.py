"""How fast the journal becomes counts: hits on hot URLs, and on URLs that are all different.

One poster, on one core, posts a journal that is there already. Beside it, in the same rounds
and to the same server: `redis-benchmark` sending ZINCRBY for as many members in pipelines of
1,000, or, where it is not installed, a socket fed with such pipelines packed beforehand.
A hit on a URL that is not hot costs four increments: all time, hour, day and month.
"""

from __future__ import annotations

import csv
import itertools
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from zlib import crc32

from tests.support import Valkey

from bench.common import Bar, Result, Spread, interleaved, ratio, scratch, valkey
from hitledger.journal import SUFFIX, make_header, salt_of
from hitledger.ledger import LedgerStore
from hitledger.posting import Poster
from hitledger.settings import Settings

LEAST_HOT_HITS = 1_000_000
LEAST_OF_ZINCRBY = 0.6
HOT_URLS = 100
HOT_HITS_A_SECOND = 10_000
"""How fast the hot hits came in: two hits are the same record only within a second."""
SETS = 4
PIPELINE = 1_000
SERVERS = {"no append-only file": ("--appendonly", "no"), "appendfsync always": ()}

_names = itertools.count(1)


def run(*, quick: bool) -> Result:
    """Measure posting on a server without a disk in its way, and on one as durable as ours."""
    hot, distinct, rounds = (500_000, 20_000, 5) if quick else (2_000_000, 50_000, 9)
    result = Result(
        "Posting: the journal becomes counts",
        ["what, on which server", "a second", "middle half", "of ZINCRBY's rate", "of one core, the poster"],
    )
    for title, options in SERVERS.items():
        with ExitStack() as stack:
            bench = _PostingBench(stack.enter_context(valkey(*options)), stack.enter_context(scratch()), distinct)
            variants: dict[str, Callable[[], float]] = {
                "hits on hot URLs": partial(bench.post_hot, hot),
                "increments for new URLs": bench.post_new,
                "increments for known URLs": bench.post_known,
                "increments by ZINCRBY": bench.zincrby,
            }
            _add(result, title, interleaved(variants, rounds), bench)
    peer = Path(shutil.which("redis-benchmark") or shutil.which("valkey-benchmark") or "a socket of our own").name
    result.notes = [
        f"Hot: {hot:,} hits on {HOT_URLS} URLs, {HOT_HITS_A_SECOND:,} in each second.",
        f"Others: {distinct:,} hits, each on another URL, in {SETS} sorted sets.",
        f"As many ZINCRBYs, on as many members of one set, come from {peer}, {PIPELINE:,} in a pipeline.",
    ]
    return result


def _add(result: Result, title: str, found: dict[str, list[float]], bench: _PostingBench) -> None:
    peer = found["increments by ZINCRBY"]
    for name, figures in found.items():
        share = "" if name.startswith("hits") else ratio(figures, peer).middle
        spread = Spread.of(figures)
        busy = Spread.of(bench.busy[name]).middle if name in bench.busy else ""
        result.rows.append([f"{name}, {title}", spread.middle, str(spread), share, busy])
    result.bars += [
        Bar(f"hits a second on hot URLs, {title}", Spread.of(found["hits on hot URLs"]).middle, LEAST_HOT_HITS),
        Bar(
            f"increments for known URLs, of ZINCRBY's rate, {title}",
            ratio(found["increments for known URLs"], peer).middle,
            LEAST_OF_ZINCRBY,
        ),
    ]


class _PostingBench:
    """One server, and one journal folder whose poster is the one that is measured."""

    def __init__(self, server: Valkey, folder: Path, distinct: int) -> None:
        self.busy: dict[str, list[float]] = {}
        self._server = server
        self._settings = Settings(redis_url=server.url, data_dir=folder)
        self._settings.journal_dir.mkdir()
        self._store = LedgerStore(self._settings)
        self._poster = Poster(self._settings, self._store)
        self._distinct = distinct
        self._known = [b"/api/product/%012d/" % number for number in range(distinct)]
        self.post(_records(self._known))
        self._members = itertools.count(distinct)

    def post(self, records: Iterable[bytes], kind: str = "hits on hot URLs") -> float:
        """Write a journal file, post it, and return how many of its hits were posted a second."""
        count = self._write(records)
        began, used = time.perf_counter(), time.thread_time()
        self._poster.post_now()
        seconds = time.perf_counter() - began
        self.busy.setdefault(kind, []).append((time.thread_time() - used) / seconds)
        return count / seconds

    def post_hot(self, count: int) -> float:
        """Post so many hits on a few URLs."""
        return self.post(_hot_records(count))

    def post_new(self) -> float:
        """Post hits on URLs that the ledger has never seen."""
        paths = (b"/api/product/%012d/" % next(self._members) for _ in range(self._distinct))
        return SETS * self.post(_records(paths), "increments for new URLs")

    def post_known(self) -> float:
        """Post one hit on every URL that the ledger knew from the start, in another order."""
        random.shuffle(self._known)
        return SETS * self.post(_records(self._known), "increments for known URLs")

    def _write(self, records: Iterable[bytes]) -> int:
        name = f"{time.time_ns() // 1000:016x}-{next(_names):032x}"
        salt = salt_of(name)
        data = b"".join(b"\n%08x%b" % (crc32(record, salt), record) for record in records)
        (self._settings.journal_dir / (name + SUFFIX)).write_bytes(make_header(name) + data)
        return data.count(b"\n")

    def zincrby(self) -> float:
        """Return how many increments a second the peer makes, on a set of its own."""
        key = f"peer-{next(_names)}"
        if program := shutil.which("redis-benchmark") or shutil.which("valkey-benchmark"):
            command = [
                program, "-s", str(self._server.socket), "-n", str(SETS * self._distinct),
                "-r", str(self._distinct), "-P", str(PIPELINE), "-c", "1", "--csv",
                "ZINCRBY", key, "1", "/api/product/__rand_int__/",
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rate = float(list(csv.reader(done.stdout.splitlines()))[-1][1])
        else:
            rate = self._zincrby_by_socket(key)
        self._server.client.unlink(key)
        return rate

    def _zincrby_by_socket(self, key: str) -> float:
        words = [b"*4\r\n$7\r\nZINCRBY\r\n$%d\r\n%b\r\n$1\r\n1\r\n" % (len(key), key.encode())] * self._distinct
        commands = [word + b"$%d\r\n%b\r\n" % (len(path), path) for word, path in zip(words, self._known, strict=True)]
        blocks = [commands[start : start + PIPELINE] for start in range(0, len(commands), PIPELINE)] * SETS
        packed = [(b"".join(block), len(block)) for block in blocks]
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._server.socket))
            began = time.perf_counter()
            for data, commands_sent in packed:
                connection.sendall(data)
                missing = 2 * commands_sent  # lines: a length, and the new count
                while missing > 0:
                    missing -= connection.recv(1 << 16).count(b"\n")
                assert missing == 0
            return SETS * self._distinct / (time.perf_counter() - began)


def _records(paths: Iterable[bytes]) -> Iterable[bytes]:
    """Yield a record a path, all of this second, without its checksum."""
    head = b"%08xh" % int(time.time())
    return (head + path for path in paths)


def _hot_records(count: int) -> Iterable[bytes]:
    """Yield records on hot URLs, of which so many come in within each second, without their checksums."""
    draw = random.Random(1).choices
    paths = [b"/api/category/%d/" % number for number in range(HOT_URLS)]
    first = int(time.time()) - count // HOT_HITS_A_SECOND
    for second in range(count // HOT_HITS_A_SECOND):
        head = b"%08xh" % (first + second)
        known = [head + path for path in paths]
        for number in draw(range(HOT_URLS), k=HOT_HITS_A_SECOND):
            yield known[number]
