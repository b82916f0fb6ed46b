"""Broken journal files, one for each way of being broken, and what must be made of each.

    python -m tests.golden

writes them, and `manifest.json` beside them, to `tests/data/journals`. The format is written
out here by hand, so that a change to it, wanted or not, shows in the tests: files like these
lie on disks.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from zlib import crc32

FOLDER = Path(__file__).parent / "data" / "journals"
NAME = "00065c0000000000-" + "0123456789abcdef" * 2
OTHER = "00065c0000000000-" + "fedcba9876543210" * 2
SECOND = 1_790_000_000
HEADER_BYTES = 256


@dataclass
class Broken:
    """One broken file: what is in it, and what is made of it.

    `becomes` is "posted", "left alone" where nobody may touch it, or "set aside" where it must
    not be taken for what was posted under its name. `watermark` is what the ledger has of it
    already: bytes, and the checksum of these.
    """

    case: str
    what: str
    data: bytes
    counts: dict[str, int] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    routes: dict[str, int] = field(default_factory=dict)
    damaged: int = 0
    lost: int = 0
    becomes: str = "posted"
    watermark: tuple[int, int] | None = None
    file: str = f"{NAME}.journal"


def record(path: bytes, kind: bytes = b"h", name: str = NAME, second: bytes = b"%08x" % SECOND) -> bytes:
    """Return one record of a file of that name."""
    body = second + kind + path
    return b"\n%08x%b" % (crc32(name.encode() + body), body)


def tally(lost: int) -> bytes:
    """Return a header's count of lost hits."""
    return b"%012d%08x" % (lost, crc32(b"%012d" % lost))


def header(name: str = NAME, version: int = 1, lost: bytes = tally(0)) -> bytes:
    """Return a header."""
    words = b"hitledger-journal %d %b " % (version, name.encode())
    return (words + b"%08x" % crc32(words)).ljust(192) + lost.ljust(64)


def numbered(count: int) -> list[bytes]:
    """Return that many records on URLs of their own."""
    return [record(b"/api/%03d" % number) for number in range(count)]


def counts_of(records: list[bytes], data: bytes) -> dict[str, int]:
    """Return the counts of those of some records that are still whole in a file."""
    return {each[18:].decode(): 1 for each in records if each in data}


A, B, C = record(b"/a"), record(b"/b"), record(b"/c")
ALL = {"/a": 1, "/b": 1, "/c": 1}


def whole_files() -> Iterator[Broken]:
    """Yield what is not broken at all."""
    kinds = record(b"", b"u") + record(b"", b"o") + record(b"/x%0Ay", b"e") + record(b"")
    yield Broken(
        "whole", "Every kind of record.", header() + A + A + B + C + kinds,
        counts={"/a": 2, "/b": 1, "/c": 1, "/x%0Ay": 1, "/": 1}, lines={"(unmatched)": 1, "(oversized)": 1},
    )  # fmt: skip
    ours = header(version=2)
    many = record(b"h3\0\0/a", b"x") + record(b"h1\0/<one>/\0/b", b"x") + record(b"h2\0/<one>/\0/\0c", b"x")
    lines = record(b"u4\0\0", b"x") + record(b"o1\0/<one>/\0", b"x") + record(b"e5\0/<l>/\0/x%0Ay", b"x")
    yield Broken("extended", "Every kind of record of a file of version 2.", ours + A + many + lines,
                 {"/a": 4, "/b": 1, "/%00c": 2, "/x%0Ay": 5}, {"(unmatched)": 4, "(oversized)": 1},
                 routes={"/<one>/": 4, "/<l>/": 5})  # fmt: skip
    bad = [
        b"h",
        b"h0\0\0/a",
        b"h-1\0\0/a",
        b"h1e3\0\0/a",
        b"h1000000001\0\0/a",
        b"z1\0\0/a",
        b"h1\0" + b"r" * 1025,
        b"h",
        b"h1\0/a",
        b"h1\0" + b"r" * 1025 + b"\0/a",
        b"h" + b"1" * 5000 + b"\0\0/a",
    ]
    yield Broken("extended-nonsense", "Extended records that say nothing that can be.",
                 ours + b"".join(record(each, b"x") for each in bad) + A, {"/a": 1}, damaged=len(bad))  # fmt: skip
    yield Broken("no-records", "A header and no more.", header())
    yield Broken("lost", "Hits that could not be journalled.", header(lost=tally(7)) + A, {"/a": 1}, lost=7)
    yield Broken("odd-bytes", "Paths of bytes that mean something elsewhere.",
                 header() + record(b"/\0") + record(b"/\xff\r ") + record(b"/" + b"hitledger-journal 1"),
                 {"/%00": 1, "/%FF%0D%20": 1, "/hitledger-journal%201": 1})  # fmt: skip


def broken_ends() -> Iterator[Broken]:
    """Yield files whose end is not what it was."""
    two = {"/a": 1, "/b": 1}
    yield Broken("torn-tail", "The last record was cut off.", header() + A + B + C[:-1], two)
    yield Broken("torn-at-line-feed", "Of the last record there is the line feed.", header() + A + B + b"\n", two)
    yield Broken("torn-in-checksum", "Of the last record there are four bytes.", header() + A + B + C[:5], two)
    yield Broken("zero-tail", "The file is longer than its data.", header() + A + B + bytes(700), two, damaged=1)
    stale = b"".join(record(b"/old/%d" % number, name=OTHER) for number in range(20))
    yield Broken("stale-block", "The last block is one of a file that was deleted.",
                 header() + A + B + stale[7:], two, damaged=19)  # fmt: skip
    yield Broken("empty", "Not even a header.", b"")
    yield Broken("short-header", "The header was cut off.", header()[:100])


def broken_middles() -> Iterator[Broken]:
    """Yield files with something wrong between good records."""
    outer = {"/a": 1, "/c": 1}
    flipped = bytearray(B)
    flipped[-1] ^= 0x20
    yield Broken("flipped-path", "A byte of a path is another.", header() + A + flipped + C, outer, damaged=1)
    flipped = bytearray(B)
    flipped[3] ^= 0x01
    yield Broken("flipped-checksum", "A byte of a checksum is another.", header() + A + flipped + C, outer, damaged=1)
    yield Broken("flipped-line-feed", "A line feed is another byte: two records are one.",
                 header() + A + b"X" + B[1:] + C, outer, damaged=1)  # fmt: skip
    yield Broken("missing-line-feed", "A line feed is missing.", header() + A + B[1:] + C, outer, damaged=1)
    yield Broken("short-write", "A writer went on behind a write that was cut short.",
                 header() + A + B[:11] + C, outer, damaged=1)  # fmt: skip
    yield Broken("merged", "Two writes were cut short one behind the other.",
                 header() + A + B[:11] + B[:9] + C, outer, damaged=2)  # fmt: skip
    yield Broken("doubled-line-feed", "There is an empty record.", header() + A + b"\n" + B + C, ALL, damaged=1)
    records = numbered(400)
    data = header() + b"".join(records)
    holed = data[:4096] + bytes(4096) + data[8192:]
    yield Broken("zero-page", "A page of the disk is zero.", holed, counts_of(records, holed), damaged=1)
    foreign = b"".join(record(b"/old/%03d" % number, name=OTHER) for number in range(200))[:4096]
    patched = data[:4096] + foreign + data[8192:]
    pieces = patched[HEADER_BYTES + 1 :].split(b"\n")
    bad = sum(b"\n" + piece not in records for piece in pieces)
    yield Broken(
        "stale-page", "A page is one of a file that was deleted.", patched, counts_of(records, patched), damaged=bad
    )
    yield Broken(
        "unknown-kind",
        "A record of a kind that is not known.",
        header() + A + record(b"/z", b"z") + C,
        outer,
        damaged=1,
    )
    yield Broken("poison", "A record without a time, with a good checksum.",
                 header() + A + record(b"/b", second=b"someday!") + C, outer, damaged=1)  # fmt: skip
    yield Broken(
        "garbage-first", "Something stands before the first record.", header() + b"x" * 40 + A + B + C, ALL, damaged=1
    )


def broken_headers() -> Iterator[Broken]:
    """Yield files whose header does not say what it should."""
    rest = A + B + C
    yield Broken("garbage-header", "The header is noise.", bytes(range(256)) + rest, ALL)
    yield Broken("zero-header", "The header's block was never written.", bytes(HEADER_BYTES) + rest, ALL)
    flipped = bytearray(header())
    flipped[30] ^= 0x01
    yield Broken("flipped-header", "A byte of the header is another.", bytes(flipped) + rest, ALL)
    yield Broken("garbage-tally", "The tally of lost hits is noise.", header(lost=b"\xff" * 20) + rest, ALL)
    yield Broken("unknown-version", "A format of the future.", header(version=3) + rest, becomes="left alone")
    yield Broken("other-header", "A copy under another name.", header(OTHER) + rest, becomes="left alone")
    yield Broken("foreign-name", "A file that somebody put there.", header() + rest, becomes="left alone",
                 file="copy-of-a.journal")  # fmt: skip
    yield Broken("foreign-file", "A file that is none of ours.", b"Dear diary,\n\ntoday ...\n" * 30,
                 becomes="left alone", file="diary.journal")  # fmt: skip


def known_files() -> Iterator[Broken]:
    """Yield files of which the ledger has posted something that they do not hold."""
    rest = A + B + C
    yield Broken("goes-on", "Posted up to the second record.", header() + rest, {"/b": 1, "/c": 1},
                 watermark=(HEADER_BYTES + len(A), crc32(A)))  # fmt: skip
    yield Broken("below-watermark", "Shorter than what was posted of it.", header() + A, becomes="set aside",
                 watermark=(HEADER_BYTES + len(A + B), crc32(A + B)))  # fmt: skip
    yield Broken("cloned", "Another file under a name that was posted.", header() + A + C + B, becomes="set aside",
                 watermark=(HEADER_BYTES + len(A + B), crc32(A + B)))  # fmt: skip
    yield Broken("rolled-back", "Shorter than what was posted, and written on.", header() + A + C, becomes="set aside",
                 watermark=(HEADER_BYTES + len(A + B), crc32(A + B)))  # fmt: skip


def all_files() -> list[Broken]:
    """Return all of them."""
    return [*whole_files(), *broken_ends(), *broken_middles(), *broken_headers(), *known_files()]


def manifest() -> list[dict[str, object]]:
    """Return what must be made of each file."""
    return [{name: value for name, value in asdict(each).items() if name != "data"} for each in all_files()]


def main() -> None:
    """Write the files and the manifest."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    for each in all_files():
        folder = FOLDER / each.case
        folder.mkdir(parents=True)
        (folder / each.file).write_bytes(each.data)
    (FOLDER / "manifest.json").write_text(json.dumps(manifest(), indent=1) + "\n")


if __name__ == "__main__":
    main()
