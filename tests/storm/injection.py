"""Doing to the service what the schedule says, and undoing it in time."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Sequence

from tests.storm.schedule import ERRORS, Fault
from tests.storm.service import Service

POSTING_COMMAND = "EVALSHA"


class Injector:
    """Injects faults into one service; `faults` counts, by name, those that found something to hurt."""

    def __init__(self, service: Service) -> None:
        self.faults: Counter[str] = Counter()
        self._service = service
        self._undo: list[tuple[float, int, Callable[[], object]]] = []
        self._undone = 0
        self._network_fault = 0
        proxy = service.proxy
        self._at_once: dict[str, Callable[[Fault], bool]] = {
            "kill -9 a web worker": lambda fault: service.kill_worker(fault.number),
            "kill -9 the process that is posting": lambda _: service.kill_poster(),
            "kill -9 the whole web service": lambda _: service.kill_web(),
            "kill -9 the whole service, Valkey too": lambda _: service.kill_web() and service.kill_valkey(0.0),
            "kill -9 Valkey": lambda fault: service.kill_valkey(fault.seconds),
            "forget the scripts": lambda _: service.command("SCRIPT", "FLUSH"),
        }
        self._stops: dict[str, Callable[[], int]] = {
            "stop Valkey": service.stop_valkey,
            "stop the process that is posting": service.stop_poster,
        }
        self._commands: dict[str, tuple[Sequence[str], Sequence[str]]] = {
            "run out of memory": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
            "be a replica": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        }
        self._network: dict[str, Callable[[Fault], None]] = {
            "hold the network": lambda _: proxy.hold(),
            "slow the network": lambda fault: proxy.delay(0.005 + fault.number % 200 / 1000),
            "refuse connections": lambda _: proxy.refuse(),
            "reset connections": lambda _: proxy.reset_all(),
            "lose replies": lambda fault: proxy.lose_replies(*_names(fault)),
            "tear replies": lambda fault: proxy.tear_replies(*_names(fault)),
            "tear commands": lambda fault: proxy.tear_commands(*_names(fault)),
            "answer with an error": lambda fault: proxy.answer(ERRORS[fault.number % len(ERRORS)], *_names(fault)),
        }

    def inject(self, fault: Fault) -> None:
        """Begin a fault; `undo_due` ends it."""
        if self._begin(fault):
            self.faults[fault.name] += 1

    def undo_due(self, now: float) -> None:
        """End the faults whose time is over."""
        while self._undo and self._undo[0][0] <= now:
            heapq.heappop(self._undo)[2]()

    def _begin(self, fault: Fault) -> bool:
        name = fault.name
        if name in self._at_once:
            return self._at_once[name](fault)
        if name in self._stops:
            pid = self._stops[name]()
            self._later(fault.seconds, lambda: self._service.go_on(pid))
            return bool(pid)
        if name in self._commands:
            begin, end = self._commands[name]
            self._later(fault.seconds, lambda: self._service.command(*end))
            return self._service.command(*begin)
        self._network[name](fault)
        if fault.seconds:
            self._network_fault += 1
            mine = self._network_fault
            self._later(fault.seconds, lambda: self._heal(mine))
        return True

    def _heal(self, network_fault: int) -> None:
        if network_fault == self._network_fault:  # no other one has followed
            self._service.proxy.heal()

    def _later(self, seconds: float, work: Callable[[], object]) -> None:
        self._undone += 1
        heapq.heappush(self._undo, (time.monotonic() + seconds, self._undone, work))


def _names(fault: Fault) -> Sequence[str]:
    """Return the commands that a fault is for: most often those that post, else all."""
    return (POSTING_COMMAND,) if fault.number % 4 else ()
