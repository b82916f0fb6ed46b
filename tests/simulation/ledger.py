"""A model of the ledger: what its scripts do, and what its servers forget.

A shard's state is the end of a log of changes. Its server's disk, and each replica, has a
beginning of that log; a crash or a failover goes back to one. `post` and `retire` do what
the scripts do: `test_simulation` holds them against the real ones on a real server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hitledger.entries import Batch, LedgerIdentity, Outcome, Watermark
from hitledger.errors import LedgerError, LedgerUnavailableError
from tests.simulation.truth import Cell

if TYPE_CHECKING:
    from tests.simulation.machine import Machine, ModelHost
    from tests.simulation.world import World

REPLIES = ("OOM", "READONLY", "LOADING", "MISCONF", "NOREPLICAS", "TRYAGAIN", "CLUSTERDOWN", "BUSY")
"""Errors by which a server says no before it has done anything."""


@dataclass
class Replica:
    """A copy of a shard: what it has applied, and what of that its disk has."""

    applied: int = 0
    durable: int = 0
    resyncing_until: float = 0.0
    """While it takes over the whole data set its disk has no copy of it, and it may not be promoted."""


@dataclass
class Shard:
    """One shard: its keys, and the log that made them."""

    number: int
    most_urls: int = 1 << 40
    most_routes: int = 1 << 40
    ledger: str = ""
    floor: str = ""
    requests: int = 0
    retired: list[int] = field(default_factory=lambda: [0, 0, 0])
    urls: dict[str, int] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    routes: dict[str, int] = field(default_factory=dict)
    marks: dict[str, Watermark] = field(default_factory=dict)
    log: list[Callable[[], None]] = field(default_factory=list)
    """How to undo each change, oldest first."""
    history: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """journal -> (length of the log, offset posted), rising."""
    durable: int = 0
    replicas: list[Replica] = field(default_factory=list)
    begun: int = 0
    """Before which length of the log no state comes back."""
    epoch: int = 0
    """How often it went back: whoever waits on a connection is cut off then."""

    def post(self, ledger: str, batch: Batch, accept: Callable[[], None] = lambda: None) -> Outcome:
        """Do what post.lua does; `accept` is called before a batch is booked."""
        if self.ledger != ledger:
            return Outcome("stranger")
        current = self.marks.get(batch.journal)
        if current == batch.wanted:
            self.log.append(lambda: None)
            return Outcome("duplicate", current)
        if current != batch.expected:
            return Outcome("elsewhere", current)
        if current is None and batch.journal < self.floor:
            return Outcome("old")
        accept()
        self._book(batch)
        return Outcome("posted", batch.wanted)

    def _book(self, batch: Batch) -> None:
        before, journal = self.marks.get(batch.journal), batch.journal
        urls, lines, routes = self._parted(batch)
        total = sum(urls.values()) + sum(lines.values())
        self._add(urls, lines, routes)
        self.requests += total
        self.marks[journal] = batch.wanted

        def undo() -> None:
            for table, changes in ((self.urls, urls), (self.lines, lines), (self.routes, routes)):
                for name, hits in changes.items():
                    table[name] -= hits
                    if not table[name]:
                        del table[name]
            self.requests -= total
            if before:
                self.marks[journal] = before
            else:
                del self.marks[journal]

        self.log.append(undo)
        self.history.setdefault(journal, []).append((len(self.log), batch.wanted.offset))

    def _parted(self, batch: Batch) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        """Return a batch's hits by URL, line and route, with what exceeds the caps where it goes instead."""
        urls: Counter[str] = Counter()
        lines: Counter[str] = Counter()
        routes: Counter[str] = Counter()
        for group in batch.hits.values():
            lines.update(group.lines)
            for url, hits in sorted(group.urls.items()):  # as LedgerStore sends them
                if self._has_room(url, self.urls, urls, self.most_urls):
                    urls[url] += hits
                else:
                    lines["(overflow)"] += hits
            for route, hits in sorted(group.routes.items()):
                has_room = self._has_room(route, self.routes, routes, self.most_routes)
                routes[route if has_room else "(overflow)"] += hits
        return urls, lines, routes

    @staticmethod
    def _has_room(name: str, held: dict[str, int], new: dict[str, int], most: int) -> bool:
        return name in held or name in new or len({*held, *new}) < most

    def _add(self, urls: dict[str, int], lines: dict[str, int], routes: dict[str, int]) -> None:
        for table, changes in ((self.urls, urls), (self.lines, lines), (self.routes, routes)):
            for name, hits in changes.items():
                table[name] = table.get(name, 0) + hits

    def adopt(self, ledger: str) -> str:
        """Do what adopt.lua does."""
        if not self.ledger and not self.requests and not self.marks:
            self.ledger = ledger

            def undo() -> None:
                self.ledger = ""

            self.log.append(undo)
            self.settle()
        return self.ledger

    def settle(self) -> None:
        """Begin anew: no server forgets that, since an operator looks on when a ledger is made or emptied."""
        self.durable = self.begun = len(self.log)
        for replica in self.replicas:
            replica.applied = replica.durable = self.begun

    def retire(self, ledger: str, floor: str) -> int:
        """Do what retire.lua does for all journals of the shard."""
        if self.ledger != ledger:
            return -1
        old_floor, old_retired = self.floor, list(self.retired)
        self.floor = max(self.floor, floor)
        gone = {name: mark for name, mark in self.marks.items() if name < floor}
        for name, mark in gone.items():
            del self.marks[name]
            for place, value in enumerate((mark.hits, mark.lost, mark.damaged)):
                self.retired[place] += value

        def undo() -> None:
            self.floor, self.retired = old_floor, old_retired
            self.marks.update(gone)

        self.log.append(undo)
        return len(gone)

    def fall_back(self, length: int) -> None:
        """Go back to an earlier state."""
        length = max(length, self.begun)
        self.epoch += 1
        while len(self.log) > length:
            self.log.pop()()
        for entries in self.history.values():
            while entries and entries[-1][0] > length:
                entries.pop()
        self.durable = min(self.durable, length)
        for replica in self.replicas:
            replica.applied = min(replica.applied, length)
            replica.durable = min(replica.durable, length)

    def empty(self) -> None:
        """Lose everything, as by FLUSHALL."""
        self.epoch += 1
        fields = ("ledger", "floor", "requests", "retired", "urls", "lines", "routes", "marks", "history")
        saved = {name: getattr(self, name) for name in fields}
        self.ledger, self.floor, self.requests, self.retired = "", "", 0, [0, 0, 0]
        self.urls, self.lines, self.routes, self.marks, self.history = {}, {}, {}, {}, {}

        def undo() -> None:
            for name, value in saved.items():
                setattr(self, name, value)

        self.log.append(undo)

    def posted_at(self, journal: str, length: int) -> int:
        """Return up to where a journal was posted in the state that a length of the log made."""
        offset = 0
        for at, posted in self.history.get(journal, ()):
            if at <= length:
                offset = posted
        return offset

    def weakest(self, now: float) -> int:
        """Return the length of the log that survives whatever may happen to a server by itself."""
        ready = [min(each.applied, each.durable) for each in self.replicas if each.resyncing_until <= now]
        return min([self.durable, *ready])


class ModelLedger:
    """All shards, and the servers they live on."""

    def __init__(self, world: World, shards: Sequence[Shard], *, always: bool, one_server: bool) -> None:
        self.world = world
        self.shards = shards
        self.always = always
        self.one_server = one_server
        self.id = ""
        self.down: frozenset[int] = frozenset()
        """Shards that no one can reach."""
        self.flaky = False
        """True while calls fail at random."""
        self.changes = 0
        """How often what can be reached has changed."""
        self.late: list[tuple[str, Batch, Machine, Counter[Cell]]] = []
        """Batches still on their way, whose senders have stopped waiting."""
        self.operator_faults = False
        """True once an operator's hand has taken the ledger back further than a server could."""

    @property
    def epochs(self) -> list[int]:
        """How often each shard has fallen back, or was emptied."""
        return [shard.epoch for shard in self.shards]

    def replied(self, shard: Shard) -> None:
        """Note that a script's reply leaves the server: with `appendfsync always` it is on disk by then."""
        if self.always:
            shard.durable = len(shard.log)

    def group_of(self, number: int) -> Sequence[Shard]:
        """Return the shards that share a shard's server."""
        return self.shards if self.one_server else self.shards[number : number + 1]

    # What happens to servers

    def crash(self, group: Sequence[Shard]) -> None:
        """Restart a server on what its disk has, or on more where more was written than synced."""
        for shard in group:
            shard.fall_back(self.world.random.randint(shard.durable, len(shard.log)))
            shard.durable = len(shard.log)
        self.late.clear()

    def fail_over(self, group: Sequence[Shard], number: int) -> None:
        """Promote a replica; the others, and the old primary, take over its data set."""
        now = self.world.clock
        if any(shard.replicas[number].resyncing_until > now for shard in group):
            return
        for shard in group:
            chosen = shard.replicas[number]
            durable = chosen.durable
            shard.fall_back(chosen.applied)
            shard.durable = durable
            for replica in shard.replicas:
                replica.applied = len(shard.log)
                replica.durable = 0
                replica.resyncing_until = now + self.world.profile.resync_seconds
        self.late.clear()

    def restore(self, group: Sequence[Shard]) -> None:
        """Put an old backup in place."""
        for shard in group:
            shard.fall_back(self.world.random.randint(0, len(shard.log)))
            shard.durable = len(shard.log)
        self.operator_faults = True

    def flush(self) -> None:
        """Do what FLUSHALL does on every server."""
        for shard in self.shards:
            shard.empty()
            shard.settle()
        self.id = ""
        self.operator_faults = True

    def replicate(self, shard: Shard, *, wholly: bool = False) -> None:
        """Let a shard's replicas and disks come closer."""
        random, now = self.world.random, self.world.clock
        if wholly or random.random() < 0.5:
            shard.durable = len(shard.log)
        for replica in shard.replicas:
            if wholly or random.random() < 0.7:
                replica.applied = len(shard.log) if wholly else random.randint(replica.applied, len(shard.log))
            if replica.resyncing_until <= now and (wholly or self.always or random.random() < 0.5):
                replica.durable = replica.applied

    def deliver(self) -> None:
        """Let a batch arrive whose sender has long given up."""
        identity, batch, machine, expected = self.late.pop(self.world.random.randrange(len(self.late)))
        shard = self.shards[batch.shard]
        shard.post(identity, batch, lambda: self.world.judge_booking(machine, shard, batch, expected))
        self.replied(shard)


class ModelStore:
    """What `LedgerStore` is to one process."""

    keeps_sections = False

    def __init__(self, ledger: ModelLedger, host: ModelHost, machine: Machine) -> None:
        self._ledger = ledger
        self._host = host
        self._machine = machine
        self._random = ledger.world.random
        self._identity: LedgerIdentity | None = None

    @property
    def identity(self) -> LedgerIdentity:
        """Which ledger this is, as last seen."""
        return self._identity or self.open()

    @property
    def opened(self) -> bool:
        """True where the process knows the ledger that is there."""
        return bool(self._identity and self._identity.id == self._ledger.id)

    def _reach(self, shard: int) -> None:
        ledger = self._ledger
        if shard in ledger.down or (ledger.flaky and self._random.random() < 0.1):
            raise LedgerUnavailableError("The ledger cannot be reached.")

    def open(self) -> LedgerIdentity:
        """Look at the ledger anew, and make it where the server is empty."""
        self._host.step("ledger")
        self._identity = None
        ledger = self._ledger
        self._reach(0)
        ledger.id = ledger.shards[0].ledger or ledger.id or self._host.random_hex(16)
        for shard in ledger.shards:
            self._reach(shard.number)
            if shard.adopt(ledger.id) != ledger.id:
                raise LedgerError("A shard holds counts of another ledger.")
            ledger.replied(shard)
        self._identity = LedgerIdentity(ledger.id, len(ledger.shards), 0)
        return self._identity

    def watermarks(self, journals: Sequence[str]) -> dict[str, list[Watermark | None]]:
        """Read watermarks, or raise where a shard is away."""
        found, away = self.look(journals)
        for error in away.values():
            raise error
        return found

    def look(self, journals: Sequence[str]) -> tuple[dict[str, list[Watermark | None]], dict[int, LedgerError]]:
        """Read watermarks, each shard at its own moment, of those that answer."""
        away: dict[int, LedgerError] = {}
        found: dict[str, list[Watermark | None]] = {journal: [] for journal in journals}
        if not journals:
            return found, away
        _ = self.identity
        self._host.epochs = self._ledger.epochs
        for shard in self._ledger.shards:
            self._host.step("ledger")
            try:
                self._reach(shard.number)
            except LedgerUnavailableError as error:
                away[shard.number] = error
            for journal in journals:
                found[journal].append(None if shard.number in away else shard.marks.get(journal))
        self._host.step("ledger")
        if len(away) == len(self._ledger.shards):
            raise away[0]
        return found, away

    def post(self, batches: Sequence[Batch]) -> list[Outcome]:
        """Book batches; what is answered need not be what was done."""
        ledger, identity = self._ledger, self.identity.id
        self._host.step("ledger")
        fate = self._random.choice(("cut", "late", "lost", "error", "", "", "")) if ledger.flaky else ""
        away = LedgerUnavailableError("The ledger cannot be reached.")
        unknown = [Outcome("unknown", error=away) for _ in batches]
        if fate == "late":
            ledger.late += [(identity, batch, self._machine, self._truth(batch)) for batch in batches]
            return unknown
        outcomes = []
        for batch in batches:
            if batch.shard in ledger.down or (fate == "cut" and self._random.random() < 0.5):
                return unknown  # a connection that breaks leaves every reply unknown
            if fate == "error" and self._random.random() < 0.5:
                outcomes.append(Outcome("unknown", error=LedgerUnavailableError(self._random.choice(REPLIES))))
                continue
            outcomes.append(self._book(identity, batch))
        self._host.step("ledger")
        if fate == "lost":
            return unknown
        if any(outcome.word == "stranger" for outcome in outcomes):
            self._identity = None  # as LedgerStore does
        return outcomes

    def _book(self, identity: str, batch: Batch) -> Outcome:
        shard = self._ledger.shards[batch.shard]
        world = self._ledger.world
        outcome = shard.post(
            identity, batch, lambda: world.judge_booking(self._machine, shard, batch, self._truth(batch))
        )
        self._ledger.replied(shard)
        return outcome

    def _truth(self, batch: Batch) -> Counter[Cell]:
        """Return what the file holds for a batch, at the moment when it is sent."""
        log = self._machine.logs[batch.journal]
        return log.expected(batch.shard, batch.expected.offset if batch.expected else 0, batch.wanted.offset)

    def confirm(self, journal: str, marks: Sequence[Watermark], replicas: int = 0) -> bool:
        """Wait for the disks of each shard's server and of so many replicas; they may be too slow."""
        for number, mark in enumerate(marks):
            self._host.step("ledger")
            self._reach(number)
            shard = self._ledger.shards[number]
            if self._book(self.identity.id, Batch(number, journal, mark, mark, {})).word != "duplicate":
                return False
            at, epoch = len(shard.log), shard.epoch
            calm = self._ledger.world.calm
            if calm or self._random.random() < 0.7:
                self._ledger.replicate(shard, wholly=calm or self._random.random() < 0.9)
            self._host.step("ledger")
            if shard.epoch != epoch:
                raise LedgerUnavailableError("The connection was closed.")
            confirmed = sum(min(each.applied, each.durable) >= at for each in shard.replicas)
            if shard.durable < at or confirmed < replicas:
                return False
        return True

    def check(self) -> None:
        """Let its servers be as they should; how they are looked at is tested on real ones."""

    def now(self) -> float:
        """Return the time of the ledger's own clock."""
        self._reach(0)
        return self._ledger.world.clock

    def retire(self, floor: str) -> int:
        """Forget watermarks of journals born before a floor."""
        forgotten = 0
        for shard in self._ledger.shards:
            self._host.step("ledger")
            self._reach(shard.number)
            forgotten += max(0, shard.retire(self.identity.id, floor))
            self._ledger.replied(shard)
        return forgotten
