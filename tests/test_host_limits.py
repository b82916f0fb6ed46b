"""The limits of the host, with real disks and real descriptors: the application answers, and the balance tells."""

from __future__ import annotations

import errno
import gc
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest
from werkzeug.test import Client

from hitledger import CountHits, journal
from hitledger.audit import audit
from hitledger.counting import HitCounter
from hitledger.errors import LedgerError, LedgerUnavailableError
from hitledger.host import Host
from hitledger.journal import JournalWriter
from hitledger.ledger import LedgerStore
from hitledger.posting import Poster
from hitledger.serve import answers_http
from hitledger.settings import Settings
from tests.books import Books, counts_of
from tests.ports import free_port
from tests.processes import Running
from tests.servers import Server
from tests.storm.service import WEB_COMMAND, Service
from tests.support import Valkey, wait_until

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

LONG = "/" + "x" * 999
MOST_REQUESTS = 20_000


def application(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """Answer everything."""
    del environ
    start_response("200 OK", [])
    return [b"answered"]


@dataclass
class Counted:
    """An application that counts, and what it was asked."""

    settings: Settings
    counter: HitCounter
    asked: int = 0

    def ask(self, times: int = 1) -> None:
        """Send requests; each must be answered."""
        client = Client(CountHits(application, self.counter))
        for _ in range(times):
            assert client.get(LONG).status_code == 200
            self.asked += 1

    def ask_until(self, is_enough: Callable[[], bool]) -> None:
        """Send requests until something has happened."""
        while not is_enough():
            self.ask()
            assert self.asked < MOST_REQUESTS

    def lose(self, hits: int) -> None:
        """Send requests until so many more hits are lost."""
        until = self.counter.journal.lost + hits
        self.ask_until(lambda: self.counter.journal.lost >= until)

    def recover(self) -> None:
        """Wait until hits are journalled again."""
        before = self.counter.journal.lost
        wait_until(lambda: self.counter.journal.writable)
        self.ask(20)
        assert self.counter.journal.lost == before

    def check(self) -> None:
        """See that all that was asked is posted or known to be lost, and that the books agree."""
        lost = self.counter.journal.lost
        self.counter.journal.close()
        wait_until(lambda: posts(self.counter))
        report = audit(self.settings, self.counter.store)
        assert report.differences == []
        assert report.balance == {
            "received": self.asked, "posted": self.asked - lost, "pending": 0, "refused": 0, "lost": lost,
        }  # fmt: skip


def posts(counter: HitCounter) -> bool:
    """Post what there is; tell whether the ledger took it."""
    with suppress(LedgerError):
        counter.post_now()
        return True
    return False


@contextmanager
def counted(settings: Settings) -> Iterator[Counted]:
    """An application that counts by these settings."""
    counter = HitCounter(settings, LedgerStore(settings))
    Client(CountHits(application, counter)).get("/livez")  # what the client needs is imported, and nothing counted
    yield Counted(settings, counter)
    counter.stop()


QUOTA_BYTES = 2_000_000
MAKERS = {
    "ext4": (768 * 1024, ["mkfs.ext4", "-q", "-F", "-b", "1024", "-O", "^has_journal"]),
    "btrfs": (128 << 20, ["mkfs.btrfs", "-q"]),
}
"""How large an image a file system takes, and what makes it."""


@contextmanager
def disk(kind: str, folder: Path) -> Iterator[None]:
    """A small file system on a folder, btrfs with a quota; the test is skipped where none can be had."""
    folder.mkdir(parents=True, exist_ok=True)
    image = folder.with_suffix(".image")
    if kind in MAKERS:
        size, maker = MAKERS[kind]
        with image.open("wb") as file:
            file.truncate(size)
        mount = ["mount", "-o", "loop", str(image), str(folder)]
        if not shutil.which(maker[0]):
            pytest.skip(f"there is no {maker[0]} here")
        subprocess.run([*maker, str(image)], check=True)
    else:
        mount = ["mount", "-t", kind, "-o", "size=256k", "none", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    try:
        if kind == "btrfs":
            subprocess.run(["btrfs", "quota", "enable", str(folder)], check=True)
            subprocess.run(["btrfs", "qgroup", "limit", f"{QUOTA_BYTES}", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_quota_costs_what_the_balance_says(settings: Settings) -> None:
    """A quota that is used up is as a full disk, although the disk has room."""
    with disk("btrfs", settings.data_dir):
        ballast = settings.data_dir / "ballast"
        ballast.write_bytes(bytes(QUOTA_BYTES - 300_000))
        os.sync()
        with counted(settings) as service:
            service.lose(25)
            with pytest.raises(OSError, match=os.strerror(errno.EDQUOT)):
                (settings.data_dir / "more").write_bytes(bytes(300_000))
            assert os.statvfs(settings.data_dir).f_bavail * os.statvfs(settings.data_dir).f_bsize > 10 * QUOTA_BYTES
            ballast.unlink()
            os.sync()
            service.recover()
            service.check()


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_full_disk_costs_what_the_balance_says(settings: Settings, kind: str) -> None:
    """While the journal's disk is full, requests are answered and tallied as lost; with room again, they count."""
    with disk(kind, settings.data_dir):
        ballast = settings.data_dir / "ballast"
        ballast.write_bytes(bytes(100_000))
        with counted(settings) as service:
            service.lose(25)
            ballast.unlink()
            service.recover()
            service.check()


def test_a_disk_that_turns_read_only_costs_what_the_balance_says(settings: Settings) -> None:
    """A file system that the kernel makes read-only stops journalling, not answering, and what is on it is posted."""
    with disk("ext4", settings.data_dir), counted(settings) as service:
        service.ask(30)
        done = subprocess.run(["mount", "-o", "remount,abort", str(settings.data_dir)], check=False)
        if done.returncode:
            pytest.skip("this kernel has no remount,abort")
        service.lose(25)
        service.counter.post_now()
        assert counts_of(service.counter.store) == {LONG: service.asked - service.counter.journal.lost}
        with disk("tmpfs", settings.data_dir):
            service.recover()
            service.check()


@pytest.fixture
def no_descriptors() -> Iterator[Callable[[], None]]:
    """A function that leaves this process no descriptor to spare, until the test ends or calls it again."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    def turn() -> None:
        if resource.getrlimit(resource.RLIMIT_NOFILE) != limits:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            return
        gc.collect()  # what was left to the collector would free descriptors below the limit later
        free = os.open(os.devnull, os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))

    yield turn
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("asked_before", [0, 2])
def test_no_descriptor_to_spare(settings: Settings, no_descriptors: Callable[[], None], asked_before: int) -> None:
    """Where no file can be opened, requests are answered, and the balance tells what was lost, no more and no less."""
    with counted(replace(settings, journal_file_bytes=4096)) as service:
        service.ask(asked_before)
        no_descriptors()
        service.lose(25)
        no_descriptors()
        service.recover()
        service.check()


def test_the_journals_cap_while_the_ledger_is_away(settings: Settings, valkey: Valkey) -> None:
    """At its cap the journal takes no more; once the ledger is back, all of it is posted and it goes on by itself."""
    with valkey.proxy() as proxy:
        away = replace(settings, redis_url=proxy.url, journal_cap_bytes=65536)
        proxy.refuse()
        with counted(away) as service:
            service.lose(100)
            proxy.heal()
            service.recover()
            service.check()


def test_a_full_disk_of_the_ledgers_server_costs_nothing(settings: Settings, tmp_path: Path) -> None:
    """A server that cannot write its append-only file ends; with room again and started anew, it has each hit once."""
    folder = tmp_path / "ledger"
    with disk("tmpfs", folder), Server(folder, "--maxmemory-policy", "noeviction") as server:
        books = Books(replace(settings, redis_url=server.url))
        books.note(b"/before")
        books.poster.post_now()
        ballast = folder / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(1024)):
                pass
        # More than the rest of the page that the file ends in.
        books.note(*[b"/%d" % number + LONG.encode() for number in range(20)])
        with pytest.raises(LedgerUnavailableError):
            books.poster.post_now()
        assert server.process.wait() != 0
        ballast.unlink()
        server.start()
        books.poster.post_now()
        assert books.counts() == {"/before": 1, **{f"/{number}{LONG}": 1 for number in range(20)}}
        books.close()


class SteppingHost(Host):
    """The real machine, with a clock that a test sets."""

    def __init__(self, at: float) -> None:
        self.at = at
        self.now = lambda: self.at


def test_a_clock_that_steps(settings: Settings) -> None:
    """Whatever the clock says, a hit counts once; forwards, backwards, or beyond what a record can hold."""
    day = 86_400.0
    host = SteppingHost(1_700_000_000)
    store = LedgerStore(settings)
    poster = Poster(settings, store, host=host)
    asked = 0
    for step in (0, 3600, -7200, 30 * day, -20 * day, 140 * 365 * day, -140 * 365 * day, 1):
        host.at += step
        writer = JournalWriter(settings.journal_dir, host=host)
        for _ in range(3):
            assert writer.append(journal.PATH, b"/a")
            asked += 1
        poster.round()
        host.at -= 1800
        assert writer.append(journal.PATH, b"/a")
        asked += 1
        writer.close()
        poster.round()
    assert counts_of(store) == {"/a": asked}
    assert audit(settings, store).differences == []
    poster.close()
    store.close()


def test_a_clone_of_the_data_folder_doubles_nothing(settings: Settings) -> None:
    """Two machines that go on from one disk image, half of it posted, count each hit of either once."""
    first = Books(settings)
    first.note(b"/before", b"/before")
    first.poster.post_now()
    first.note(b"/between")
    copied = settings.data_dir.with_name("copy")
    shutil.copytree(settings.data_dir, copied)
    second = Books(replace(settings, data_dir=copied))
    for books, path in ((first, b"/first"), (second, b"/second")):
        books.note(path)
    second.poster.post_now()
    first.poster.post_now()
    second.poster.round()
    first.poster.round()
    assert first.counts() == {"/before": 2, "/between": 1, "/first": 1, "/second": 1}
    assert first.store.totals().requests == 5
    second.close()
    first.close()


@pytest.mark.slow
def test_two_services_on_one_data_folder(short_path: Path) -> None:
    """Two web services that share a folder, which `serve` would refuse, count exactly, one of them killed and all."""
    service = Service(short_path, workers=1)
    other = replace(service.settings, port=free_port())
    environment = {**service.environment, "HITLEDGER_PORT": str(other.port)}
    try:
        asked = 0
        for _ in range(2):
            with Running(WEB_COMMAND, environment) as second:
                wait_until(lambda: answers_http(other), 60)
                for _ in range(100):
                    asked += asks(service.settings.port) + asks(other.port)
                second.end(signal.SIGKILL)
        wait_until(lambda: service.booked() == asked)
    finally:
        service.close()


def asks(port: int) -> int:
    """Send one request to a service; 1, once it is answered."""
    with urlopen(f"http://127.0.0.1:{port}/api/", timeout=20) as answer:
        assert answer.status == 200
    return 1
