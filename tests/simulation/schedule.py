"""What happens in a world, event by event, and how it comes to rest."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

from tests.simulation.filesystem import Inode
from tests.simulation.ledger import Shard
from tests.simulation.machine import Machine, Violation
from tests.simulation.profile import Profile
from tests.simulation.world import PLENTY, Process, World, short_times

ROUNDS_TO_REST = 8
"""After the last fault, all is posted within so many rounds of each process."""

YEAR = 365 * 86_400.0


class Event(NamedTuple):
    """One kind of event: how often it happens, and in which worlds (in all, where `fault` is empty)."""

    weight: float
    fault: str
    happen: Callable[[Schedule], None]


class Schedule:
    """Runs one seed."""

    def __init__(self, seed: int, profile: Profile | None = None) -> None:
        self.world = World(seed, profile)
        self.random = self.world.random
        self._snapshots = [machine.disk.copy() for machine in self.world.machines]

    def run(self, count: int) -> None:
        """Make so many events happen, then see the world come to rest. Raises Violation."""
        world = self.world
        events = [each for each in EVENTS if not each.fault or each.fault in world.profile.faults]
        weights = list(itertools.accumulate(each.weight for each in events))
        with short_times():
            world.burn()
            for event in self.random.choices(events, cum_weights=weights, k=count):
                world.clock += 0.004
                getattr(self, event.happen.__name__)()
            self.come_to_rest()

    # What goes right

    def process(self) -> Process:
        """Choose a process; start one where there is none."""
        world = self.world
        if not world.processes:
            world.processes.append(Process(world, self.random.choice(world.machines)))
        return world.processes[int(self.random.random() * len(world.processes))]

    def hit(self) -> None:
        """A request is answered."""
        self.world.note(self.process())

    def tick(self) -> None:
        """A background thread has its turn."""
        self.world.tick(self.process())

    def read(self) -> None:
        """A report is asked for."""
        self.world.read(self.process())

    def go_on(self) -> None:
        """Something that was set aside goes on."""
        parked = self.world.parked
        if parked:
            self.world.resume(parked.pop(self.random.randrange(len(parked))))

    def wait(self) -> None:
        """Time passes."""
        self.world.clock += self.random.choice((0.1, 1.1, 1.1, 3.5, 6, 35))

    def spawn(self) -> None:
        """A process is started where one is missing."""
        world = self.world
        for machine in world.machines:
            if sum(process.machine is machine for process in world.processes) < world.profile.processes:
                world.processes.append(Process(world, machine))

    def replicate(self) -> None:
        """Replicas and disks come closer."""
        for shard in self.world.ledger.shards:
            self.world.ledger.replicate(shard)

    def arrive(self) -> None:
        """A batch arrives that nobody waits for any more."""
        if self.world.ledger.late:
            self.world.ledger.deliver()

    # What goes wrong on machines

    def kill(self) -> None:
        """A process is killed."""
        if self.world.processes:
            self.world.end(self.process())
            self.world.reap()

    def stop(self) -> None:
        """A process is ended in good order."""
        if self.world.processes:
            self.world.stop(self.process())

    def power(self) -> None:
        """A machine loses power."""
        self._power(self.random.choice(self.world.machines))

    def _power(self, machine: Machine) -> None:
        self._kill_all(machine)
        machine.cut_power()

    def _kill_all(self, machine: Machine) -> None:
        for process in [each for each in self.world.processes if each.machine is machine]:
            self.world.end(process)
        self.world.reap()

    def full(self) -> None:
        """A disk is full, or has room again."""
        disk = self.random.choice(self.world.machines).disk
        disk.free = self.random.choice((0, 30, 300)) if disk.free > PLENTY // 2 else PLENTY

    def errors(self) -> None:
        """A machine's calls begin to fail at random, or stop it."""
        machine = self.random.choice(self.world.machines)
        machine.failing = not machine.failing
        self.world.burn()

    def rot(self) -> None:
        """A file cannot be read any more."""
        inode = self._some_file()
        if inode:
            inode.rotten = True
            inode.log.excused = "its disk is broken"

    def flip(self) -> None:
        """A byte of a file changes on the disk."""
        inode = self._some_file()
        if inode:
            place = self.random.randrange(len(inode.data))
            inode.data[place] ^= self.random.randrange(1, 256)
            inode.disk = bytes(inode.data)
            inode.log.changed += inode.log.check(inode.data)
            inode.log.excused, inode.log.spoilt = "a byte was changed", True

    def _some_file(self) -> Inode | None:
        disk = self.random.choice(self.world.machines).disk
        found = [inode for name, inode in disk.names.items() if name.endswith(".journal") and inode.data]
        return self.random.choice(found) if found else None

    def clock(self) -> None:
        """A machine's clock is put forward, by years even, or back by less than watermarks are kept."""
        machine = self.random.choice(self.world.machines)
        machine.wall_offset = self.random.choice((0.0, 40.0, 7200.0, 30 * YEAR, 300 * YEAR, -40.0, -90.0))

    def clone(self) -> None:
        """A second machine is started with a copy of a machine's disk."""
        if len(self.world.machines) > 2:
            return
        origin = self.random.choice(self.world.machines)
        for inode in origin.disk.names.values():
            if inode.log:
                inode.log.excused = "there are two of it"
                inode.log.has_twin = True
        self.world.add_machine(origin.disk.copy(), origin)

    def rollback(self) -> None:
        """A machine's disk is put back to what it was, or a copy is kept for that."""
        number = self.random.randrange(len(self._snapshots))
        machine = self.world.machines[number]
        if self.random.random() < 0.7:
            self._snapshots[number] = machine.disk.copy()
            return
        self._kill_all(machine)
        for log in machine.logs.values():
            log.excused = "its disk was put back"
            log.has_twin = True
        machine.disk = self._snapshots[number].copy()
        for inode in machine.disk.names.values():
            if inode.log and inode.log.name:
                machine.logs[inode.log.name] = inode.log
                inode.log.excused = "its disk was put back"
                inode.log.has_twin = True

    # What goes wrong with the ledger

    def outage(self) -> None:
        """Shards cannot be reached, or can be again."""
        ledger = self.world.ledger
        group = {shard.number for shard in self._group()}
        ledger.down = ledger.down - group if ledger.down & group else ledger.down | group
        ledger.changes += 1

    def network(self) -> None:
        """Calls to the ledger begin to fail at random, or stop it."""
        self.world.ledger.flaky = not self.world.ledger.flaky
        self.world.ledger.changes += 1

    def crash(self) -> None:
        """A server is killed and started again."""
        self.world.ledger.crash(self._group())

    def failover(self) -> None:
        """A replica is promoted."""
        if self.world.profile.replicas:
            self.world.ledger.fail_over(self._group(), self.random.randrange(self.world.profile.replicas))

    def restore(self) -> None:
        """An old backup is put in place."""
        self.world.ledger.restore(self._group())

    def flush(self) -> None:
        """Somebody empties the servers."""
        self.world.ledger.flush()

    def _group(self) -> list[Shard]:
        ledger = self.world.ledger
        return list(ledger.group_of(self.random.randrange(len(ledger.shards))))

    # Rest

    def come_to_rest(self) -> None:
        """End all faults, let everybody work, and judge; then end every process, let files go, and judge again."""
        world = self.world
        world.calm = True
        world.ledger.flaky = False
        world.ledger.down = frozenset()
        for machine in world.machines:
            machine.failing, machine.disk.free, machine.wall_offset = False, PLENTY, 0.0
        while world.parked:
            self.go_on()
        while world.ledger.late:
            world.ledger.deliver()
        if world.profile.fresh_processes_at_end:
            self._replace_processes()
        self.spawn()
        self._settle()
        world.judge_rest()
        self._replace_processes()
        world.clock += world.profile.hold_seconds + 1
        self._settle()
        world.clock += world.profile.hold_seconds + 1
        self._settle()
        world.judge_rest()
        self._judge_directories()

    def _replace_processes(self) -> None:
        for machine in self.world.machines:
            self._kill_all(machine)
        self.spawn()

    def _settle(self) -> None:
        world = self.world
        for _ in range(ROUNDS_TO_REST):
            for process in list(world.processes):
                world.tick(process)
                while world.parked:
                    self.go_on()
            for shard in world.ledger.shards:
                world.ledger.replicate(shard, wholly=True)
            world.clock += 1.1

    def _judge_directories(self) -> None:
        for machine in self.world.machines:
            for name, inode in machine.disk.names.items():
                if not name.endswith(".journal") or inode.log.excused or not inode.log.records:
                    continue
                header_is_its_own = inode.log.name.encode() in inode.data[:128]
                if header_is_its_own or not inode.log.spoilt:
                    raise Violation(f"{name} is all posted, and is never deleted")


EVENTS = (
    Event(600, "", Schedule.hit),
    Event(90, "", Schedule.tick),
    Event(10, "", Schedule.read),
    Event(60, "", Schedule.go_on),
    Event(6, "", Schedule.wait),
    Event(20, "", Schedule.spawn),
    Event(20, "", Schedule.replicate),
    Event(6, "", Schedule.arrive),
    Event(5, "kill", Schedule.kill),
    Event(5, "stop", Schedule.stop),
    Event(3, "power", Schedule.power),
    Event(4, "full", Schedule.full),
    Event(4, "errors", Schedule.errors),
    Event(1, "rot", Schedule.rot),
    Event(2, "flip", Schedule.flip),
    Event(3, "clock", Schedule.clock),
    Event(5, "network", Schedule.network),
    Event(4, "network", Schedule.outage),
    Event(4, "crash", Schedule.crash),
    Event(4, "failover", Schedule.failover),
    Event(2, "restore", Schedule.restore),
    Event(1, "flush", Schedule.flush),
    Event(2, "clone", Schedule.clone),
    Event(4, "rollback", Schedule.rollback),
)
