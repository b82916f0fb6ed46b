"""journal: every hit is whole in a file, or tallied as lost."""

import os
import resource
import threading
from pathlib import Path

import pytest

from hitledger import journal
from hitledger.errors import JournalError
from hitledger.host import Host
from hitledger.journal import HEADER_BYTES, JournalWriter, is_good, make_header, read_header, salt_of


def records_of(directory: Path) -> list[bytes]:
    """Return the whole records of all files, oldest first."""
    found = []
    for path in sorted(directory.glob("*.journal")):
        records = path.read_bytes()[HEADER_BYTES:].split(b"\n")[1:]
        found += [record for record in records if is_good(record, salt_of(path.stem))]
    return found


def paths_of(directory: Path) -> list[bytes]:
    """Return the paths of all whole records, oldest first."""
    return [record[journal.RECORD_HEAD_BYTES :] for record in records_of(directory)]


def header_of(path: Path) -> journal.JournalHeader:
    """Return the header of a journal file."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return read_header(Host(), fd)
    finally:
        os.close(fd)


def test_a_record_is_whole_in_the_file_when_append_returns(tmp_path: Path) -> None:
    """What a request notes is in the file at once, with its kind and its time."""
    writer = JournalWriter(tmp_path)
    assert writer.append(journal.PATH, b"/api/x/")
    (record,) = records_of(tmp_path)
    assert record[16:] == b"h/api/x/"
    assert abs(int(record[8:16], 16) - Host.now()) < 60


def test_files_are_private_and_named_by_their_header(tmp_path: Path) -> None:
    """Paths may hold secrets: nobody else reads the journal. A file's name is in its header."""
    writer = JournalWriter(tmp_path / "journal")
    writer.append(journal.PATH, b"/")
    (path,) = (tmp_path / "journal").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert header_of(path).name + ".journal" == path.name


def test_a_line_feed_in_a_path_forges_no_record(tmp_path: Path) -> None:
    """A path with line feeds is one record, which gives it back."""
    writer = JournalWriter(tmp_path)
    writer.append(journal.PATH, b"/a\n0000000000000000h/admin")
    (record,) = records_of(tmp_path)
    assert record[16:] == b"e/a%0A0000000000000000h/admin"


def test_hits_with_a_route_or_many_hits_have_files_of_their_version(tmp_path: Path) -> None:
    """Whoever knows version 1 only finds no record of another kind in its files; nothing moves on twice."""
    writer = JournalWriter(tmp_path)
    writer.append(journal.PATH, b"/plain")
    plain = {path.name for path in tmp_path.glob("*.journal")}
    assert writer.append(journal.PATH, b"/a\nb", 3)
    assert writer.append(journal.UNMATCHED_KIND, b"", route=b"/<any>")
    assert writer.append(journal.PATH, b"/plain")
    (extended,) = {path.name for path in tmp_path.glob("*.journal")} - plain
    versions = {path.name: path.read_bytes().split()[1] for path in tmp_path.glob("*.journal")}
    assert versions == {plain.pop(): b"1", extended: b"2"}
    bodies = [record[16:] for record in records_of(tmp_path) if record in (tmp_path / extended).read_bytes()]
    assert bodies[-3:] == [b"xe3\0\0/a%0Ab", b"xu1\0/<any>\0", b"h/plain"]


def test_many_hits_that_are_lost_are_lost_one_by_one(tmp_path: Path) -> None:
    """A record that cannot be written is tallied with all the hits that it stood for."""
    host = FullDisk()
    writer = JournalWriter(tmp_path, host=host)
    host.full = True
    assert not writer.append(journal.PATH, b"/a", 1000)
    assert writer.lost == 1000


def test_threads_share_one_file(tmp_path: Path) -> None:
    """Eight threads leave every record of theirs whole in one file."""
    writer = JournalWriter(tmp_path)

    def note(name: int) -> None:
        for number in range(500):
            writer.append(journal.PATH, b"/%d/%d" % (name, number))

    threads = [threading.Thread(target=note, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.iterdir())) == 1
    assert set(paths_of(tmp_path)) == {b"/%d/%d" % (name, number) for name in range(8) for number in range(500)}


def test_a_forked_process_has_a_file_of_its_own(tmp_path: Path) -> None:
    """After a fork parent and child write to two files with two ids, and the parent's stays locked."""
    writer = JournalWriter(tmp_path)
    writer.append(journal.PATH, b"/parent")
    child = os.fork()
    if not child:
        writer.append(journal.PATH, b"/child")
        os._exit(0)
    os.waitpid(child, 0)
    writer.append(journal.PATH, b"/parent")
    assert sorted(paths_of(tmp_path)) == [b"/child", b"/parent", b"/parent"]
    parents, childs = sorted(tmp_path.iterdir())
    assert locked(parents)
    assert not locked(childs)


def locked(path: Path) -> bool:
    """Tell whether somebody holds a file's lock."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return not Host().lock(fd)
    finally:
        os.close(fd)


def test_a_full_file_is_followed_by_the_next(tmp_path: Path) -> None:
    """Past its size a file is left, unlocked, and the next one takes over without a gap."""
    writer = JournalWriter(tmp_path, file_bytes=HEADER_BYTES + 100)
    for number in range(30):
        assert writer.append(journal.PATH, b"/%d" % number)
    writer.maintain()
    files = sorted(tmp_path.iterdir())
    assert len(files) > 2
    assert paths_of(tmp_path) == [b"/%d" % number for number in range(30)]
    assert not locked(files[0])


def test_a_short_write_seals_the_file_and_loses_nothing(tmp_path: Path) -> None:
    """A write that the kernel cuts short spoils its own piece only: the record goes whole into a new file."""
    writer = JournalWriter(tmp_path)
    writer.append(journal.PATH, b"/before")
    (first,) = tmp_path.iterdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (first.stat().st_size + 10, hard))
    try:
        assert writer.append(journal.PATH, b"/cut")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert first.stat().st_size == HEADER_BYTES + len(b"\n") + 17 + len(b"/before") + 10
    assert paths_of(tmp_path) == [b"/before", b"/cut"]
    assert writer.lost == 0


class FullDisk(Host):
    """A host whose disk takes no new file and no new byte while `full`."""

    def __init__(self) -> None:
        self.full = False
        self.seconds = 0.0
        self.write = self._write  # type: ignore[assignment]
        self.monotonic = lambda: self.seconds

    def _write(self, fd: int, data: bytes) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        return os.write(fd, data)


def test_a_full_disk_tallies_and_recovers(tmp_path: Path) -> None:
    """Hits that cannot be written are counted as lost, durably, and the journal goes on by itself."""
    host = FullDisk()
    writer = JournalWriter(tmp_path, host=host)
    writer.append(journal.PATH, b"/before")
    (first,) = tmp_path.iterdir()
    host.full = True
    assert not writer.append(journal.PATH, b"/lost")
    assert not writer.writable
    assert not writer.append(journal.PATH, b"/lost")
    assert (writer.lost, header_of(first).lost) == (2, 2)
    assert list(tmp_path.iterdir()) == [first]
    host.full = False
    host.seconds += journal.RETRY_SECONDS
    assert writer.writable
    assert writer.append(journal.PATH, b"/after")
    assert paths_of(tmp_path) == [b"/before", b"/after"]
    assert [header_of(path).lost for path in sorted(tmp_path.iterdir())] == [2, 0]


def test_a_full_file_tells_of_losses_until_the_next_is_open(tmp_path: Path) -> None:
    """Where there is no room for the next file, the full one tells at once what is lost: a kill takes none of it."""
    host = FullDisk()
    writer = JournalWriter(tmp_path, file_bytes=HEADER_BYTES + 20, host=host)
    assert writer.append(journal.PATH, b"/the last one that fits")
    (first,) = tmp_path.iterdir()
    host.full = True
    assert not writer.append(journal.PATH, b"/lost")
    assert header_of(first).lost == 1


def test_losses_before_the_first_file_are_told_by_it(tmp_path: Path) -> None:
    """A disk that is full from the start: the tally waits in memory for the first file."""
    host = FullDisk()
    host.full = True
    writer = JournalWriter(tmp_path, host=host)
    assert not writer.append(journal.PATH, b"/lost")
    host.full = False
    host.seconds += journal.RETRY_SECONDS
    assert writer.append(journal.PATH, b"/after")
    (path,) = tmp_path.iterdir()
    assert header_of(path).lost == 1


def test_a_loss_is_told_once(tmp_path: Path) -> None:
    """Each loss stands in one file's header, however many files follow, and however the telling failed first."""
    host = FullDisk()
    host.full = True
    writer = JournalWriter(tmp_path, host=host)
    assert not writer.append(journal.PATH, b"/lost")
    host.full = False
    for _ in range(3):
        host.seconds += journal.RETRY_SECONDS
        assert writer.append(journal.PATH, b"/after")
        writer.close()
    assert [header_of(path).lost for path in sorted(tmp_path.iterdir())] == [1, 0, 0]


def test_the_cap_holds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At its cap the journal takes no more, says so, and goes on when there is room again."""
    writer = JournalWriter(tmp_path, cap_bytes=HEADER_BYTES + 10)
    writer.append(journal.PATH, b"/fits")
    (path,) = tmp_path.iterdir()
    writer.maintain()
    assert not writer.append(journal.PATH, b"/lost")
    (other,) = set(tmp_path.iterdir()) - {path}
    assert header_of(other).lost == 1
    path.unlink()
    writer.maintain()
    assert writer.append(journal.PATH, b"/after")
    assert [record.message for record in caplog.records if "cap" in record.message][-1] == (
        "the journal is below its cap again; 1 hits were lost"
    )


def test_the_cap_lets_a_sealed_file_go(tmp_path: Path) -> None:
    """A file that a full disk has sealed is let go at the cap, too: only then can it make room."""
    host = FullDisk()
    writer = JournalWriter(tmp_path, cap_bytes=HEADER_BYTES + 10, host=host)
    assert writer.append(journal.PATH, b"/fits")
    (first,) = tmp_path.iterdir()
    host.full = True
    assert not writer.append(journal.PATH, b"/lost")
    writer.maintain()
    assert locked(first)
    host.full = False
    writer.maintain()
    writer.maintain()
    assert not locked(first)


def test_a_deleted_file_is_noticed(tmp_path: Path) -> None:
    """Where somebody deletes the file in use, the writer goes on in a new one."""
    writer = JournalWriter(tmp_path)
    writer.append(journal.PATH, b"/gone")
    (path,) = tmp_path.iterdir()
    path.unlink()
    writer.maintain()
    assert writer.append(journal.PATH, b"/kept")
    assert paths_of(tmp_path) == [b"/kept"]


@pytest.mark.parametrize("sync", ["none", "interval", "each"])
def test_every_sync_keeps_every_record(tmp_path: Path, sync: str) -> None:
    """Whatever the price paid for durability, the records are the same."""
    writer = JournalWriter(tmp_path, sync=sync)
    for number in range(5):
        assert writer.append(journal.PATH, b"/%d" % number)
        writer.maintain()
    writer.close()
    assert len(records_of(tmp_path)) == 5


@pytest.mark.parametrize(
    "header",
    [
        b"", b"\0" * HEADER_BYTES, make_header("0" * 16 + "-" + "a" * 32)[:-1],
        make_header("0" * 16 + "-" + "a" * 32).replace(b"aaaa", b"aaab", 1),
        make_header("0" * 16 + "-" + "a" * 32).replace(b"journal 1", b"journal 2"),
    ],
    ids=["empty", "zeros", "short", "flipped", "of another version"],
)  # fmt: skip
def test_a_header_that_is_not_ours_is_refused(tmp_path: Path, header: bytes) -> None:
    """A file whose header is damaged or of another version is not read as a journal."""
    path = tmp_path / "file"
    path.write_bytes(header)
    with pytest.raises(JournalError):
        header_of(path)
