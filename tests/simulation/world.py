"""One seed's world: machines, processes, a ledger, what goes wrong, and what must hold nevertheless."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from random import Random
from unittest.mock import patch

from greenlet import getcurrent, greenlet

from hitledger import housekeeping, journal
from hitledger.entries import Batch, Hits
from hitledger.errors import HitledgerError
from hitledger.journal import JournalWriter
from hitledger.posting import Poster
from tests.simulation.filesystem import FileSystem, Inode
from tests.simulation.ledger import ModelLedger, ModelStore, Replica, Shard
from tests.simulation.machine import ERRORS, Killed, Machine, ModelHost, Violation
from tests.simulation.profile import Profile
from tests.simulation.truth import HITS, NOWHERE, Cell, Hit, JournalLog, Record, hits_in, shard_of

PLENTY = 1 << 50
BORN = 1_790_000_000.0
"""When the simulation begins, in unix seconds."""

ALL = frozenset([-1])
"""Shards that are away: who knows which."""

SHORT_TIMES = {
    (journal, "MOST_FILE_SECONDS"): 60,
    (housekeeping, "HEAL_SECONDS"): 3.0,
    (housekeeping, "CONFIRMED_SECONDS"): 3.0,
    (housekeeping, "RETIRE_SECONDS"): 20.0,
    (housekeeping, "KEEP_SECONDS"): 600,
}
"""The same order of lengths as in production, but for worlds that live for minutes."""


class Lock:
    """What `threading.Lock` is to the tasks of one process."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._held = False

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take it; others work until it is free."""
        while self._held:
            if not blocking:
                return False
            self._world.park()
        self._held = True
        return True

    def release(self) -> None:
        """Give it back."""
        self._held = False

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Process:
    """A process of a service: its journal, its poster, and whatever of it is under way."""

    def __init__(self, world: World, machine: Machine) -> None:
        profile, settings = world.profile, world.profile.settings(machine.directory.parent)
        self.machine = machine
        self.host = ModelHost(machine)
        self.store = ModelStore(world.ledger, self.host, machine)
        self.writer = JournalWriter(
            settings.journal_dir, sync=profile.sync, file_bytes=profile.file_bytes, cap_bytes=profile.cap_bytes,
            host=self.host,
        )  # fmt: skip
        self.poster = Poster(settings, self.store, host=self.host)
        self.writer._lock = Lock(world)  # type: ignore[assignment]
        self.poster._mutex = Lock(world)  # type: ignore[assignment]
        self.lost = 0
        """Hits that were answered and could not be journalled."""
        self.busy: set[str] = set()
        """Which of its threads are in the middle of something."""


class Task:
    """Something that one thread of a process does, and may be set aside in the middle of."""

    def __init__(self, process: Process, role: str, work: Callable[[], None]) -> None:
        self.process = process
        self.role = role
        self._work = work
        self.greenlet = greenlet(self._run)

    def _run(self) -> None:
        with suppress(Killed):
            self._work()


class World:
    """Everything that one seed makes happen."""

    def __init__(self, seed: int, profile: Profile | None = None) -> None:
        self.random = Random(seed)
        self.profile = profile or Profile.drawn(self.random)
        self.clock = BORN
        self.fuse = 1
        self.current: Task | None = None
        self.parked: list[Task] = []
        self.machines: list[Machine] = []
        self.processes: list[Process] = []
        self.calm = False
        self._main = getcurrent()
        self.ledger = self._make_ledger()
        for _ in range(self.profile.machines):
            self.add_machine(FileSystem(self.profile.block, stale_blocks=self.profile.stale_blocks))

    def _make_ledger(self) -> ModelLedger:
        profile = self.profile
        shards = [
            Shard(number, profile.most_urls, replicas=[Replica() for _ in range(profile.replicas)])
            for number in range(profile.shards)
        ]
        return ModelLedger(self, shards, always=profile.always, one_server=profile.one_server)

    def add_machine(self, disk: FileSystem, origin: Machine | None = None) -> Machine:
        """Start a machine with a disk, which may be a copy of another's, and its processes."""
        machine = Machine(self, f"machine-{len(self.machines)}", disk)
        machine.logs = dict(origin.logs) if origin else {}
        machine.logs |= {inode.log.name: inode.log for inode in disk.names.values() if inode.log and inode.log.name}
        self.machines.append(machine)
        for _ in range(self.profile.processes):
            self.processes.append(Process(self, machine))
        return machine

    # Running

    def burn(self) -> None:
        """Draw after how many calls something happens next."""
        mean = 8 if any(machine.failing for machine in self.machines) else self.profile.calls_between_interruptions
        self.fuse = int(self.random.expovariate(1 / mean)) + 1

    def interrupt(self, host: ModelHost, call: str) -> bool:
        """Let something happen at a call; return True where it is to do half of its work."""
        self.burn()
        if host.dead:
            raise Killed
        choice = self.random.random()
        if self.current and choice < 0.5:
            self.park()
            return False
        if self.calm:
            return False
        if host.failing and call in ERRORS and choice < 0.9:
            if call == "write" and choice < 0.6:
                host.fall_short()
                return True
            host.fail(call)
        if "kill" in self.profile.faults and choice > 0.7:
            self.end(next(process for process in self.processes if process.host is host))
            if call == "write" and choice > 0.85:
                return True
            raise Killed
        return False

    def park(self) -> None:
        """Set the running task aside until it is resumed."""
        assert self.current
        self.current = None
        self._main.switch()

    def sleep(self, host: ModelHost, seconds: float) -> None:
        """Let time pass for whoever sleeps, and let others work."""
        host.step("sleep")
        self.clock += seconds + 0.1
        if self.current:
            self.park()

    def start(self, process: Process, role: str, work: Callable[[], None], share: float) -> None:
        """Do something as a thread of a process, in one go or, by chance, with interruptions."""
        if role in process.busy:
            return
        if not process.busy and self.random.random() > share:
            try:
                work()
            except Killed:
                self.reap()
            return
        task = Task(process, role, work)
        process.busy.add(role)
        self.resume(task)

    def resume(self, task: Task) -> None:
        """Go on with a task until it ends or is set aside."""
        self.current = task
        task.greenlet.switch()
        self.current = None
        if task.greenlet.dead:
            task.process.busy.discard(task.role)
        else:
            self.parked.append(task)
        self.reap()

    def reap(self) -> None:
        """Take what dead processes had under way off their stacks."""
        for task in [task for task in self.parked if task.process.host.dead]:
            self.parked.remove(task)
            task.greenlet.throw(Killed)
            assert task.greenlet.dead

    def end(self, process: Process) -> None:
        """Kill a process."""
        process.host.die()
        self.processes.remove(process)

    # What processes do

    def note(self, process: Process) -> None:
        """Answer one request."""
        hit = HITS[int(len(HITS) * self.random.random() ** 2)]

        def work() -> None:
            host = process.host
            host.hit_seconds, host.hit, host.taken = None, hit, 0
            refused = host.refused
            journalled = process.writer.append(hit.kind, hit.path, hit.hits, hit.route.encode())
            host.hit = None
            if journalled != host.taken:
                raise Violation(f"append returned {journalled}, and the journal took the hit {host.taken} times")
            if not journalled:
                process.lost += hit.hits
                if host.refused == refused and host.can_tell and process.busy <= {"hit"}:
                    self.judge_losses(process)
            elif self.profile.sync == "each":
                promise(host.written[-1:])

        self.start(process, "hit", work, 0.02)

    def tick(self, process: Process) -> None:
        """Do what the background thread does every 100 ms."""

        def work() -> None:
            written = [(inode, len(inode.data)) for inode in process.host.written]
            can_tell = process.writer.writable and process.machine.disk.free > PLENTY // 2
            faults = process.machine.failed, process.lost
            try:
                process.writer.maintain()
                alone = process.busy <= {"tick"}
                if can_tell and alone and faults == (process.machine.failed, process.lost):
                    self.judge_losses(process)
                if self.profile.sync == "interval":
                    promise_up_to(written)
                if not process.poster.is_done_elsewhere(0.15):
                    process.poster.round()
            except (HitledgerError, OSError):
                pass  # it is logged and tried again

        self.start(process, "tick", work, 0.25)

    def read(self, process: Process) -> None:
        """Do what a reader does before it reads: it must see all that its machine has journalled."""

        def work() -> None:
            machine = process.machine
            known = [(log, log.starts[-1]) for log in machine.logs.values() if log.starts and not log.excused]
            faults, opened = self._faults(machine), process.store.opened
            away: frozenset[int] = frozenset()
            self._judge_pending(process)
            try:
                process.poster.post_now()
            except (HitledgerError, OSError):
                away = self.ledger.down if self.ledger.down and opened and not self.ledger.flaky else ALL
            # What stands before a torn end is posted once nobody else has the file in hand.
            others = any(each.busy for each in self.processes if each is not process and each.machine is machine)
            if faults == self._faults(machine) and away != ALL:
                for log, last in known:
                    is_excused = log.excused or (log.spoilt and (away or others))
                    if f"{log.name}.journal" in machine.disk.names and not is_excused:
                        self._judge_posted(log, "not there for a reader", last + 1, away)

        self.start(process, "read", work, 0.5)

    def _judge_pending(self, process: Process) -> None:
        """Judge what a reader would add to the counts without posting: all that is behind the watermarks, once."""
        machine = process.machine
        fuse, self.fuse = self.fuse, NOWHERE  # undisturbed: others post meanwhile in `test_report_pending`
        pending = process.poster.pending()
        self.fuse = fuse
        if pending is None:
            return
        for shard in self.ledger.shards:
            marks = [shard.marks.get(name) for name in pending.journals]
            tables = pending.hits(shard.number, marks)
            for name, mark, table in zip(pending.journals, marks, tables or (), strict=False):
                log = machine.logs[name]
                if log.excused or log.has_twin or log.spoilt:
                    continue
                added = _cells(table)
                wanted = log.expected(shard.number, mark.offset if mark else 0, NOWHERE)
                if added != wanted:
                    raise Violation(f"{name} shard {shard.number}: a reader would add {added} instead of {wanted}")

    def _faults(self, machine: Machine) -> tuple[object, ...]:
        ledger = self.ledger
        return machine.failed, ledger.epochs, ledger.changes

    def stop(self, process: Process) -> None:
        """End a process in good order."""

        def work() -> None:
            try:
                process.writer.maintain()
                process.poster.post_now()
                process.writer.close()
                process.poster.close()
            except (HitledgerError, OSError):
                pass
            self.end(process)
            raise Killed

        self.start(process, "tick", work, 0.25)

    # The oracle

    def journalled(self, inode: Inode, start: int, data: bytes, hit: Hit, seconds: float) -> None:
        """Note that a journal file took a whole record."""
        cells = hit.cells((int(seconds) & 0xFFFFFFFF) // 3600)
        inode.log.add(Record(start, bytes(data), shard_of(hit.name, self.profile.shards), cells))

    def judge_booking(self, machine: Machine, shard: Shard, batch: Batch, expected: Counter[Cell]) -> None:
        """Judge a batch that a shard is about to book."""
        log = machine.logs[batch.journal]
        before, wanted = shard.marks.get(batch.journal), batch.wanted
        booked = _cells(batch.hits)
        lost = wanted.lost - (before.lost if before else 0)
        more, less = booked - expected - log.flipped(shard.number), expected - booked
        if more or (less and not log.has_twin):
            if booked or lost <= 0:
                raise Violation(f"{batch.journal} shard {shard.number}: booked too much {more}, too little {less}")
            told = max(0, max(log.lost, log.told) - (before.lost if before else 0)) if shard.number == 0 else 0
            self._judge_gap(machine, log, lost - told, hits_in(expected))
        elif lost > max(0, log.most_told - (before.lost if before else 0)) * (shard.number == 0) and not (
            log.has_twin or log.spoilt
        ):
            raise Violation(f"{batch.journal} shard {shard.number}: {lost} hits are booked as lost that never were")
        if wanted.hits - (before.hits if before else 0) != hits_in(booked):
            raise Violation(f"{batch.journal}: the watermark's hits do not add up")
        if wanted.offset > log.longest and not log.excused:
            raise Violation(f"{batch.journal}: the watermark stands past the file's end")
        if lost < 0:
            raise Violation(f"{batch.journal}: hits that were lost are forgotten")

    def _judge_gap(self, machine: Machine, log: JournalLog, lost: int, missing: int) -> None:
        if f"{log.name}.journal" in machine.disk.names:
            raise Violation(f"{log.name}: booked as lost although its file is still there")
        if lost != missing and not log.spoilt:
            raise Violation(f"{log.name}: {missing} hits are gone and {lost} are booked as lost")

    def note_deletion(self, machine: Machine, log: JournalLog) -> None:
        """Note what a journal file told when it was deleted."""
        log.told = log.lost
        log.stubless = f"{log.name}.closed" not in machine.disk.names

    def judge_decision(self, log: JournalLog) -> None:
        """Judge the deletion of a journal file: whatever server comes back must have all of it."""
        if self.ledger.operator_faults or not self.profile.confirms_all or log.excused:
            return
        for shard in self.ledger.shards:
            last = max((record.start for record in log.records if record.shard == shard.number), default=0)
            if shard.posted_at(log.name, shard.weakest(self.clock)) < last:
                raise Violation(f"{log.name} was deleted, and a server may come back without it")

    def judge_quarantine(self, log: JournalLog, *, fell_back: bool) -> None:
        """Judge a file being set aside: all of it that may not be lost must be posted, or was, a moment ago."""
        if not log.excused:
            if not fell_back:
                self._judge_posted(log, "set aside")
            log.excused = "it was set aside"

    def judge_power_cut(self, log: JournalLog, gone: list[Record]) -> None:
        """Judge what a power cut took."""
        for record in gone:
            if record.start + len(record.data) <= log.promised:
                raise Violation(f"{log.name}: a power cut took a record at {record.start} that was synced")
        if gone:
            log.doubtful_from = min(log.doubtful_from, log.promised)

    def judge_header(self, log: JournalLog) -> None:
        """Judge a file after a power cut: under its name it is whole, unless nothing is ever synced."""
        if self.profile.sync != "none" and not log.excused and log.name.encode() not in log.inode.data[:128]:
            raise Violation(f"{log.name}: the file has its name, but no header")

    def judge_losses(self, process: Process) -> None:
        """Judge what files tell of lost hits: each loss once, and all of them where there is any file to tell it."""
        logs = [inode.log for inode in process.host.written if inode.log.name]
        told = sum(log.lost for log in logs)
        if not process.writer.lost == process.lost >= told and not any(log.excused for log in logs):
            raise Violation(f"{process.lost} hits were lost, {process.writer.lost} are known, {told} told")
        if told != process.lost and logs and not any(log.excused for log in logs):
            raise Violation(f"of {process.lost} lost hits {told} are told")

    def judge_rest(self) -> None:
        """Judge the state in which nothing is under way and nothing is broken any more."""
        for machine in self.machines:
            for log in machine.logs.values():
                self._judge_log(machine, log)
        for shard in self.ledger.shards:
            sums = (sum(shard.urls.values()) + sum(shard.lines.values()), shard.requests)
            posted = sum(mark.hits for mark in shard.marks.values()) + shard.retired[0]
            if sums != (posted, posted):
                raise Violation(f"shard {shard.number}: sums {sums}, by the watermarks {posted}")
            if len(shard.urls) > shard.most_urls:
                raise Violation(f"shard {shard.number}: more URLs than allowed")
        for process in self.processes:
            self.judge_losses(process)

    def _judge_log(self, machine: Machine, log: JournalLog) -> None:
        is_past_promises = self.ledger.operator_faults or not self.profile.confirms_all
        if log.excused or (log.stubless and is_past_promises):
            return
        self._judge_posted(log, "there" if f"{log.name}.journal" in machine.disk.names else "gone")
        marks = [shard.marks.get(log.name) for shard in self.ledger.shards]
        lost = sum(mark.lost for mark in marks if mark)
        if lost < log.lost and not log.spoilt and log.name >= max(shard.floor for shard in self.ledger.shards):
            raise Violation(f"{log.name}: {log.lost} hits were lost, the ledger knows of {lost}")

    def _judge_posted(
        self, log: JournalLog, where: str, end: int = NOWHERE, away: frozenset[int] = frozenset()
    ) -> None:
        for shard in self.ledger.shards:
            if shard.number in away:
                continue
            behind = log.behind(shard.number, shard.posted_at(log.name, len(shard.log)), end)
            if behind:
                raise Violation(f"{len(behind)} hits of {log.name} are not posted to {shard.number}; it is {where}")


def promise(inodes: list[Inode]) -> None:
    """Note that all of some files is on disk, if what the code under test says is true."""
    promise_up_to([(inode, len(inode.data)) for inode in inodes])


def promise_up_to(written: list[tuple[Inode, int]]) -> None:
    """Note that files are on disk up to a byte."""
    for inode, size in written:
        if not inode.log.doubtful:
            inode.log.promised = max(inode.log.promised, size)


@contextmanager
def short_times() -> Iterator[None]:
    """Shorten the long waits of production, and say nothing in the log meanwhile."""
    patches = [patch.object(module, name, value) for (module, name), value in SHORT_TIMES.items()]
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()
        logging.disable(disabled)


def _cells(by_hour: Mapping[int, Hits]) -> Counter[Cell]:
    """Return hits as the oracle counts them."""
    cells: Counter[Cell] = Counter()
    for hour, group in by_hour.items():
        for kind, table in (("url", group.urls), ("line", group.lines), ("route", group.routes)):
            cells.update({(hour, kind, name): hits for name, hits in table.items()})
    return cells
