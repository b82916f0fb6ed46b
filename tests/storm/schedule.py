"""Which faults come when: all of it drawn from the seed, so that a storm can be run again."""

from __future__ import annotations

import random
from dataclasses import dataclass

ERRORS = (
    "LOADING Valkey is loading the dataset in memory",
    "READONLY You can't write against a read only replica.",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "NOSCRIPT No matching script.",
    "BUSY Valkey is busy running a script.",
    "MISCONF Errors writing to the AOF file: No space left on device",
    "ERR something nobody has heard of",
)


@dataclass(frozen=True)
class Kind:
    """One kind of fault: how often among the others, and the shortest and longest that it lasts."""

    weight: int
    least_seconds: float = 0.0
    most_seconds: float = 0.0


KINDS = {
    "kill -9 a web worker": Kind(24),
    "kill -9 the process that is posting": Kind(24),
    "kill -9 the whole web service": Kind(1),
    "kill -9 the whole service, Valkey too": Kind(1),
    "kill -9 Valkey": Kind(22, 0.0, 1.0),
    "stop Valkey": Kind(6, 0.1, 2.5),
    "stop the process that is posting": Kind(6, 0.1, 2.5),
    "hold the network": Kind(5, 0.1, 2.5),
    "slow the network": Kind(4, 0.2, 2.0),
    "refuse connections": Kind(4, 0.1, 1.0),
    "reset connections": Kind(6),
    "lose replies": Kind(8, 0.1, 1.0),
    "tear replies": Kind(8, 0.1, 1.0),
    "tear commands": Kind(6, 0.1, 1.0),
    "answer with an error": Kind(14, 0.1, 1.0),
    "run out of memory": Kind(5, 0.1, 1.0),
    "be a replica": Kind(4, 0.1, 1.0),
    "forget the scripts": Kind(5),
}
KILLS = tuple(name for name in KINDS if name.startswith("kill"))


@dataclass(frozen=True)
class Fault:
    """One fault: when it begins, in seconds, how long it lasts, and a number for what it leaves open."""

    at: float
    name: str
    seconds: float
    number: int


def schedule(seed: int, seconds: float, pace: float) -> list[Fault]:
    """Return the faults of a storm of so many seconds, `pace` of them a second, by time."""
    draw = random.Random(seed)
    names = list(KINDS)
    weights = [kind.weight for kind in KINDS.values()]
    faults = []
    at = draw.expovariate(pace)
    while at < seconds:
        name = draw.choices(names, weights)[0]
        kind = KINDS[name]
        # Squared: most are short, so that posting gets its turn between them.
        lasts = kind.least_seconds + (kind.most_seconds - kind.least_seconds) * draw.random() ** 2
        faults.append(Fault(at, name, lasts, draw.randrange(2**32)))
        at += draw.expovariate(pace)
    return faults
