"""The users of the ledger's server, each with the least that its work needs (Redis ACL).

A test posts, reads, audits and resets as these users, and sees everything else refused; the
default test suite runs as the writer, too (`docs/ledger-servers.md`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

CONNECT = ("ping", "info", "time", "select", "client|setinfo", "cluster|slots", "command")
READ = (
    "evalsha", "script|load", "multi", "exec", "type", "exists", "ttl", "scan",
    "hget", "hmget", "hgetall", "hexists", "hkeys", "hvals", "hscan",
    "zscore", "zmscore", "zcard", "zcount", "zrange", "zrevrange", "zscan",
    "scard", "sismember", "smembers", "smismember", "xread",
)  # fmt: skip
"""`evalsha`: a page is read by a script, which may do no more than its user."""
WRITE = (
    "set", "del", "unlink", "expire", "expireat", "hset", "hsetnx", "hincrby", "hdel",
    "zadd", "zincrby", "zrem", "zremrangebyrank", "sadd", "srem", "xadd", "waitaof", "wait",
    "bgrewriteaof",
)  # fmt: skip
"""`bgrewriteaof`: Redis needs it before the first batch after a start (`hitledger.aof`)."""
EXAMINE = ("config|get", "acl|getuser")
"""What `hitledger doctor` and every start look at, and do without where they may not."""
BROKER = ("lpush", "brpop", "llen", "hello")
"""What Celery's queue of test runs needs besides, where this server keeps it too."""
LIMITS = ("get", "incrby", "pttl", "rename")
"""The same for the counts of HITLEDGER_LIMIT_..."""

DEFAULT = "user default on resetpass ~* &* +@all"
"""Nobody can log in as it, and it may do everything: Redis replays its file as this user (docs/ledger-servers.md)."""


@dataclass(frozen=True)
class User:
    """One user: what it is for, and what it may do."""

    name: str
    purpose: str
    commands: tuple[str, ...]
    keys: bool = True

    def line(self, key_prefix: str, password: str | None) -> str:
        """Return its line in a `users.acl`, with the password's digest; without a password nobody can log in as it."""
        login = f"#{hashlib.sha256(password.encode()).hexdigest()}" if password else "resetpass"
        keys = [f"~{key_prefix}:*"] if self.keys else []
        return " ".join(
            ["user", self.name, "on", login, "resetchannels", *keys, "-@all", *map("+{}".format, self.commands)]
        )


def users(name: str, *others: str) -> tuple[User, ...]:
    """Return the users of a ledger: the service's own, of that name, which may do `others` too, and two for people."""
    own = (*CONNECT, *READ, *WRITE, *EXAMINE, *others)
    return (
        User(name, "the service: web processes, workers, and every command", own),
        User(f"{name}-reader", "reports: hitledger stats, top, export, and hitledger.Ledger", (*CONNECT, *READ)),
        User(
            f"{name}-maintenance",
            "an operator: rewriting the append-only file, looking at settings",
            ("ping", "info", "bgrewriteaof", "config|get", "acl|getuser", "acl|whoami", "client|setinfo"),
            keys=False,
        ),
    )
