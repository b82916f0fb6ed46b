"""simulation: no seed finds a hit lost or doubled, and the models are like what they stand for."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from hitledger import ledger
from hitledger.entries import Batch, Hits, Watermark, most_urls_of
from hitledger.host import Host
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
from tests.simulation.filesystem import FileSystem
from tests.simulation.ledger import Shard
from tests.simulation.machine import Machine, ModelHost
from tests.simulation.profile import FAULTS, Profile
from tests.simulation.runner import failed_seeds, run_all, run_seed
from tests.simulation.schedule import Schedule
from tests.simulation.world import World

EVENTS = 1000


@pytest.mark.slow
def test_seeds_that_once_failed() -> None:
    """What was once found wrong stays right."""
    assert not [failure for seed in failed_seeds() if (failure := run_seed(seed, EVENTS))]


def test_a_few_new_seeds() -> None:
    """Nothing is lost, doubled or kept for ever in a few worlds of every kind."""
    assert not [failure for seed in range(20_000, 20_010) if (failure := run_seed(seed, EVENTS))]


def test_each_fault_alone() -> None:
    """Each kind of fault by itself, without another to hide behind."""
    for fault in FAULTS:
        Schedule(1, Profile(faults=frozenset([fault]), shards=2, replicas=1, confirmed_replicas=1)).run(300)


@pytest.mark.slow
def test_five_thousand_seeds() -> None:
    """The same for 5,000 worlds of 1,000 events, on all cores."""
    assert run_all(list(range(5000)), EVENTS, os.cpu_count() or 1) == 0


def test_a_seed_is_a_world() -> None:
    """The same seed makes the same things happen: what failed once can be looked at again."""

    def end_of(seed: int) -> tuple[float, float, list[list[str]]]:
        schedule = Schedule(seed)
        schedule.run(300)
        world = schedule.world
        return world.clock, world.random.random(), [list(shard.marks) for shard in world.ledger.shards]

    assert end_of(7) == end_of(7)
    assert end_of(7) != end_of(8)


# The model ledger is like the scripts

MOST_ROUTES = 4


class Twins:
    """A real ledger and the model of one, side by side."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.random = Random(seed)
        self.store = LedgerStore(replace(settings, shards=2, max_urls=7))
        self.identity = self.store.open()
        self.shards = [Shard(number, most_urls_of(number, 2, 7), most_routes=MOST_ROUTES) for number in range(2)]
        for shard in self.shards:
            assert shard.adopt(self.identity.id) == self.identity.id
        self.journals = [f"{born:016x}-{self.random.randbytes(16).hex()}" for born in range(1, 5)]

    def post(self) -> None:
        """Post a batch that may begin anywhere."""
        random, shard = self.random, self.random.choice(self.shards)
        journal = random.choice(self.journals)
        current = shard.marks.get(journal)
        hits = {random.randrange(480_000, 490_000): self.hits() for _ in range(random.randrange(3))}
        total = sum(group.total for group in hits.values())
        stale = random.choice([*shard.marks.values(), None, Watermark(999)])
        before = random.choice((current, current, current, stale))
        wanted = replace(
            before or Watermark(), offset=random.randrange(256, 270), crc=random.randrange(2),
            hits=(before.hits if before else 0) + total, lost=random.randrange(3), damaged=random.randrange(3),
        )  # fmt: skip
        batch = Batch(shard.number, journal, before, random.choice((wanted, wanted, current or wanted)), hits)
        self.send(shard, batch)

    def hits(self) -> Hits:
        """Return hits on some of a few names."""
        random = self.random
        urls = {f"/{random.randrange(9)}": random.randrange(1, 5) for _ in range(random.randrange(6))}
        lines = {"(unmatched)": random.randrange(1, 4)} if random.random() < 0.3 else {}
        routes = {f"/<{random.randrange(6)}>": 1 for _ in urls} if random.random() < 0.5 else {}
        return Hits(urls, lines, routes)

    def send(self, shard: Shard, batch: Batch) -> None:
        """Post it to both; they must say the same."""
        identity = self.identity if self.random.random() < 0.95 else replace(self.identity, id="f" * 32)
        self.store._identity = identity
        (outcome,) = self.store.post([batch])
        assert outcome == shard.post(identity.id, batch)
        self.store._identity = self.identity

    def retire(self) -> None:
        """Forget journals born before a floor."""
        floor = f"{self.random.randrange(5):016x}"
        gone = sum(shard.retire(self.identity.id, floor) for shard in self.shards)
        assert self.store.retire(floor) == gone

    def compare(self) -> None:
        """Compare all that both hold."""
        for shard in self.shards:
            client: Any = self.store.reader(shard.number)
            totals = client.hgetall(self.store.totals_key(shard.number))
            urls = client.zrange(self.store.set_key(shard.number), 0, -1, withscores=True)
            marks = client.hgetall(self.store.watermarks_key(shard.number))
            assert {url: int(hits) for url, hits in urls} == shard.urls
            assert {name: int(hits) for name, hits in totals.items() if name[0] == "("} == shard.lines
            routes = client.zrange(self.store.routes_key(shard.number), 0, -1, withscores=True)
            assert {route: int(hits) for route, hits in routes} == shard.routes
            assert int(totals.get("routed", 0)) == sum(shard.routes.values())
            assert int(totals.get("requests", 0)) == shard.requests
            assert {name: Watermark.decode(text) for name, text in marks.items()} == shard.marks
            assert totals.get("floor", "") == shard.floor
            names = ("retired", "retired_lost", "retired_damaged")
            assert [int(totals.get(name, 0)) for name in names] == shard.retired


@pytest.mark.parametrize("seed", range(8))
def test_the_model_ledger_is_like_the_real_one(settings: Settings, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is posted and forgotten, in whatever order, scripts and model answer and hold the same."""
    monkeypatch.setattr(ledger, "MOST_ROUTES", MOST_ROUTES)
    twins = Twins(settings, seed)
    for _ in range(150):
        twins.random.choices((twins.post, twins.retire), (40, 1))[0]()
    twins.compare()
    assert sum(shard.requests for shard in twins.shards) > 50
    assert any("(overflow)" in shard.lines for shard in twins.shards)
    assert any("(overflow)" in shard.routes for shard in twins.shards)
    twins.store.close()


def test_the_model_ledger_goes_back_exactly() -> None:
    """A shard that falls back holds what it held then, counts and watermarks together."""
    random, shard = Random(3), Shard(0, most_urls=3)
    shard.adopt("x")
    states = []
    for offset in range(300, 330):
        held = dict(shard.urls), dict(shard.lines), dict(shard.routes)
        states.append((len(shard.log), *held, shard.requests, dict(shard.marks)))
        journal = f"{random.randrange(3):016x}"
        mark, url = shard.marks.get(journal), f"/{random.randrange(6)}"
        hits = Hits({url: 2}, {"(unmatched)": 1}, {f"/<{random.randrange(3)}>": 2})
        shard.post("x", Batch(0, journal, mark, Watermark(offset, offset), {1: hits}))
    for length, *state in reversed(states):
        shard.fall_back(length)
        assert [shard.urls, shard.lines, shard.routes, shard.requests, shard.marks] == state


# The model host is like the machine


class Hosts:
    """The real host and the model, on which the same calls are made."""

    def __init__(self, directory: Path) -> None:
        world = World(0, Profile(machines=0))
        machine = Machine(world, "model", FileSystem(4096, stale_blocks=False))
        world.fuse = 1 << 60
        self.hosts: list[tuple[Host, Path]] = [(Host(), directory), (ModelHost(machine), machine.directory)]
        self.files: list[tuple[int, int]] = []

    def both(self, call: str, *args: Any) -> list[Any]:
        """Make a call on both, with paths and descriptors of their own, and return what came of it."""
        found = []
        for number, (host, directory) in enumerate(self.hosts):
            mine = [directory / each if isinstance(each, Path) else each for each in args]
            mine = [each[number] if isinstance(each, tuple) else each for each in mine]
            try:
                found.append(getattr(host, call)(*mine))
            except OSError as error:
                found.append(errno.errorcode[error.errno or 0])
        return found

    def same(self, call: Any, *args: Any) -> None:
        """Make a call on both; the same must come of it."""
        real, model = self.both(call, *args)
        assert real == model, (call, args)

    def open(self, path: Path, flags: int) -> None:
        """Open a file on both."""
        real, model = self.both("open", path, flags, 0o600)
        assert isinstance(real, int) == isinstance(model, int), (path, flags, real, model)
        if isinstance(real, int):
            self.files.append((real, model))
        else:
            assert real == model

    def files_with(self, suffix: str) -> None:
        """List a directory on both."""
        real, model = self.both("files", Path(), suffix)
        assert [(path.name, size) for path, size in real] == [(path.name, size) for path, size in model]


@pytest.mark.parametrize("seed", range(3))
def test_the_model_host_is_like_the_real_one(tmp_path: Path, seed: int) -> None:
    """Files, locks and names do the same on the model and on the machine, errors included."""
    random, hosts = Random(seed), Hosts(tmp_path / "journal")
    names = [Path(name) for name in ("a.journal", "b.closed", "c.closed", "d.new")]
    create = os.O_RDWR | os.O_CREAT
    hosts.open(names[0], create)
    hosts.same("make_directory", Path())
    for _ in range(400):
        if not hosts.files or random.random() < 0.25:
            flags = (create | os.O_EXCL, create, create | os.O_TRUNC, os.O_RDONLY, os.O_RDWR | os.O_APPEND)
            hosts.open(random.choice(names), random.choice(flags))
            hosts.files_with(random.choice((".journal", ".closed", "w")))
            continue
        file = random.choice(hosts.files)
        calls = (
            ("write", file, random.randbytes(random.randrange(1, 40))),
            ("pwrite", file, random.randbytes(3), random.randrange(90)),
            ("pread", file, random.randrange(1, 60), random.randrange(80)),
            ("size", file), ("lock", file), ("unlock", file), ("is_named", file, random.choice(names)),
            ("rename", random.choice(names[:2]), random.choice(names[2:])), ("unlink", random.choice(names)),
            ("fsync", file), ("sync_directory", Path()), ("close", file),
        )  # fmt: skip
        call = random.choice(calls)
        hosts.same(*call)
        if call[0] == "close":
            hosts.files.remove(file)
    for file in hosts.files:
        hosts.same("close", file)
