"""What a seed's world is like: how many of everything, which settings, and what goes wrong in it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from random import Random

from hitledger.settings import Settings

FAULTS = (
    "kill", "stop", "power", "full", "errors", "rot", "flip", "clock", "network", "crash", "failover",
    "restore", "flush", "clone", "rollback",
)  # fmt: skip
"""Kinds of fault; each seed has some of them."""

BY_HAND = ("rot", "flip", "restore", "flush", "clone", "rollback")
"""Faults for which the promises make exceptions: rare, so that most seeds are judged without any."""


@dataclass(frozen=True)
class Profile:
    """One world's shape."""

    machines: int = 1
    processes: int = 2
    shards: int = 1
    sync: str = "interval"
    block: int = 4096
    stale_blocks: bool = False
    file_bytes: int = 1500
    cap_bytes: int = 1 << 40
    hold_seconds: int = 5
    hold_bytes: int = 1 << 40
    most_urls: int = 1 << 40
    always: bool = True
    one_server: bool = True
    replicas: int = 0
    confirmed_replicas: int = 0
    resync_seconds: float = 4.0
    calls_between_interruptions: int = 60
    fresh_processes_at_end: bool = True
    faults: frozenset[str] = frozenset()

    @classmethod
    def drawn(cls, random: Random) -> Profile:
        """Draw one."""
        replicas = random.choice((0, 0, 1, 2))
        rare = {name for name in BY_HAND if random.random() < 0.06}
        return cls(
            machines=random.choice((1, 1, 1, 2)),
            processes=random.choice((1, 2, 2, 3)),
            shards=random.choice((1, 1, 2, 3)),
            sync=random.choice(("none", "interval", "interval", "each")),
            block=random.choice((512, 4096)),
            stale_blocks=random.random() < 0.3,
            file_bytes=random.choice((400, 900, 1500, 6000)),
            cap_bytes=random.choice((4000, 1 << 40, 1 << 40, 1 << 40)),
            hold_seconds=random.choice((0, 5, 5, 30)),
            hold_bytes=random.choice((2000, 1 << 40, 1 << 40)),
            most_urls=random.choice((3, 1 << 40, 1 << 40, 1 << 40)),
            always=random.random() < 0.6,
            one_server=random.random() < 0.5,
            replicas=replicas,
            confirmed_replicas=random.choice((replicas, replicas, replicas, 0)),
            calls_between_interruptions=random.choice((15, 60, 250)),
            fresh_processes_at_end=random.random() < 0.5,
            faults=frozenset(name for name in FAULTS if name not in BY_HAND and random.random() < 0.5) | rare,
        )

    @property
    def confirms_all(self) -> bool:
        """True where files are deleted only when every server that can be promoted has them."""
        return self.confirmed_replicas == self.replicas

    def settings(self, data_dir: Path) -> Settings:
        """Return the settings that a process of this world has."""
        return Settings(
            redis_url="redis://model", data_dir=data_dir, shards=self.shards, journal_sync=self.sync,
            journal_file_bytes=self.file_bytes, journal_cap_bytes=self.cap_bytes,
            journal_hold_seconds=self.hold_seconds, journal_hold_bytes=self.hold_bytes, max_urls=self.most_urls,
            ledger_replicas=self.confirmed_replicas,
        )  # fmt: skip

    def __str__(self) -> str:
        """Show what differs from the plain world."""
        shown = [
            f"{each.name}={','.join(sorted(value)) if isinstance(value, frozenset) else value}"
            for each in fields(self)
            if (value := getattr(self, each.name)) != each.default
        ]
        return " ".join(shown) or "plain"
