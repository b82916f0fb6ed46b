"""What servers say of themselves, and which releases have which trap.

The facts are INFO's. A release is named only where behaviour cannot be asked for without
restarting the server; everything else is tried out by `doctor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REDIS, VALKEY = "Redis", "Valkey"
OLDEST = {REDIS: (7, 2, 0), VALKEY: (8, 0, 0)}
"""The first releases with WAITAOF that this is tested with."""
NO_SCRIPT_LOSS = (9, 1, 0)
"""Valkey from here on replays scripts from its AOF whatever the `default` user may do; Redis does not."""

Version = tuple[int, int, int]


@dataclass(frozen=True)
class ServerFacts:
    """One server, by its INFO."""

    software: str
    version: Version
    mode: str
    role: str
    policy: str
    evicted: int
    replicas: int
    aof: bool
    aof_write_ok: bool
    aof_rewrites_done: int
    aof_rewriting: bool
    aof_rewrite_ok: bool

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> ServerFacts:
        """Read INFO's answer; what a managed server leaves out counts as its default."""
        software = VALKEY if info.get("server_name") == "valkey" else REDIS
        number = info.get("valkey_version") if software == VALKEY else info.get("redis_version")
        mode = str(info.get("server_mode", info.get("redis_mode", "standalone")))
        rewriting = bool(int(info.get("aof_rewrite_in_progress", 0)))
        return cls(
            software=software,
            version=read_version(str(number or "0")),
            mode="cluster" if int(info.get("cluster_enabled", 0)) else mode,
            role=str(info.get("role", "master")),
            policy=str(info.get("maxmemory_policy", "noeviction")),
            evicted=int(info.get("evicted_keys", 0)),
            replicas=int(info.get("connected_slaves", 0)),
            aof=bool(int(info.get("aof_enabled", 0))),
            aof_write_ok=info.get("aof_last_write_status", "ok") == "ok",
            aof_rewrites_done=int(info.get("aof_rewrites", 0)) - rewriting,
            aof_rewriting=rewriting,
            aof_rewrite_ok=info.get("aof_last_bgrewrite_status", "ok") == "ok",
        )

    @property
    def name(self) -> str:
        """The release, as people write it."""
        return f"{self.software} {'.'.join(map(str, self.version))}"

    @property
    def is_old(self) -> bool:
        """True where the release is older than what this is tested with."""
        return self.version < OLDEST[self.software]

    @property
    def keeps_torn_batches(self) -> bool:
        """True where a batch torn at the AOF's end comes back, in part, with the second restart.

        Valkey cuts the whole transaction off since 8.0.11, 8.1.10 and 9.1 (its pull request 4342).
        """
        if self.software == REDIS:
            return True
        return self.version < {(8, 0): (8, 0, 11), (8, 1): (8, 1, 10)}.get(self.version[:2], (9, 1, 0))

    @property
    def may_drop_scripts(self) -> bool:
        """True where reading the AOF back drops every script's effects unless user `default` may do all."""
        return self.software == REDIS or self.version < NO_SCRIPT_LOSS

    @property
    def doubles_keys_in_cluster(self) -> bool:
        """True for Valkey 9.0.0 and 9.0.1, whose cluster mode doubles keys when the AOF is read (its issue 2995)."""
        return self.software == VALKEY and self.mode == "cluster" and (9, 0, 0) <= self.version < (9, 0, 2)


def read_version(text: str) -> Version:
    """Return a version's first three numbers."""
    numbers = [int(word) if word.isdigit() else 0 for word in text.split("-", maxsplit=1)[0].split(".")]
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return major, minor, patch
