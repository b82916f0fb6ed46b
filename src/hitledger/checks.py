"""The quick, harmless checks of the ledger's servers: run by every process before it posts.

They only read: INFO, and CONFIG and ACL where the user may. A finding that is FAIL means that
counts would be lost or doubled in silence, so that nothing is posted there; anything that may
pass by itself is no FAIL here. `doctor` has the slower checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import redis

from hitledger.addresses import CLUSTER, ONE
from hitledger.errors import LedgerMismatchError
from hitledger.findings import FAIL, OK, UNKNOWN, WARN, Finding
from hitledger.servers import OLDEST, REDIS, ServerFacts

ASKED = ("appendfsync", "aof-load-truncated")


def server_findings(client: redis.Redis, kind: str, subject: str = "") -> list[Finding]:
    """Check one server of a ledger whose address is of a kind: one server, a cluster, Sentinel.

    Raises:
        redis.RedisError: it cannot be reached, or INFO is denied.
    """
    facts = ServerFacts.of(client.info())
    found = [_check_version(facts), _check_mode(facts, kind), _check_eviction(facts)]
    if found[1].status == FAIL:
        return [replace(found[1], subject=subject)]
    found += _check_aof(facts, _configuration(client))
    if facts.aof and facts.may_drop_scripts:
        found.append(_check_default_user(client))
    return [replace(each, subject=subject) for each in found]


def demand_sound(clients: Iterable[redis.Redis], kind: str) -> None:
    """See that no server of a ledger fails a check; one that does not answer keeps no other from being asked.

    Raises:
        LedgerMismatchError: one fails. redis.RedisError: one cannot be reached, and none that can fails.
    """
    away: redis.RedisError | None = None
    for client in clients:
        try:
            findings = server_findings(client, kind)
        except redis.RedisError as error:
            away = away or error
            continue
        for finding in findings:
            if finding.status == FAIL:
                raise LedgerMismatchError(finding.what, finding.remedy)
    if away:
        raise away


def _configuration(client: redis.Redis) -> Mapping[str, str]:
    """Return the settings that the checks need; empty where CONFIG is denied, as managed servers do."""
    try:
        return {str(name): str(value) for name, value in client.config_get(*ASKED).items()}
    except redis.ResponseError:
        return {}


def _check_version(facts: ServerFacts) -> Finding:
    if facts.is_old:
        oldest = ".".join(map(str, OLDEST[facts.software][:2]))
        return Finding("version", FAIL, f"The server is {facts.name}.", f"Use {facts.software} {oldest} or later.")
    if facts.doubles_keys_in_cluster:
        return Finding(
            "version", FAIL, f"{facts.name} doubles keys in a cluster when it starts.", "Use Valkey 9.0.2 or later."
        )
    return Finding("version", OK, f"The server is {facts.name}.")


def _check_mode(facts: ServerFacts, kind: str) -> Finding:
    if facts.mode == "sentinel":
        remedy = "Write redis+sentinel://host:port/service in HITLEDGER_REDIS_URL."
        return Finding("mode", FAIL, "The server is a Sentinel.", remedy)
    if facts.mode == CLUSTER and kind != CLUSTER:
        remedy = "Write redis+cluster://host:port in HITLEDGER_REDIS_URL."
        return Finding("mode", FAIL, "The server is a node of a cluster.", remedy)
    return Finding("mode", OK, "It is on its own." if kind == ONE else f"It is what the address says: {kind}.")


def _check_eviction(facts: ServerFacts) -> Finding:
    if facts.policy != "noeviction":
        return Finding(
            "eviction",
            FAIL,
            f"The ledger's server evicts keys under memory pressure (maxmemory-policy {facts.policy}).",
            "Counts would vanish in silence: set maxmemory-policy to noeviction.",
        )
    if facts.evicted:
        return Finding(
            "eviction",
            WARN,
            f"The server has evicted {facts.evicted:,} keys since its start, under an earlier policy.",
            "Run `hitledger audit`; restart the server once its answer is good.",
        )
    return Finding("eviction", OK, "It refuses writes rather than evict keys.")


def _check_aof(facts: ServerFacts, configuration: Mapping[str, str]) -> Iterator[Finding]:
    if not facts.aof:
        yield Finding(
            "aof",
            WARN,
            "The server keeps no append-only file: when it crashes it forgets what came since its last snapshot, "
            "and only journal files that are still held bring it back.",
            "Set appendonly to yes and appendfsync to always.",
        )
        return
    yield _check_sync(facts, configuration.get("appendfsync"))
    if facts.keeps_torn_batches:
        how = "hitledger has it rewritten after each restart, before it posts"
        if configuration.get("aof-load-truncated") == "no":
            how = "the server does not start on one until it is repaired (aof-load-truncated no)"
        yield Finding("torn", OK, f"A batch torn by a crash would double in {facts.software}'s file: {how}.")


def _check_sync(facts: ServerFacts, sync: str | None) -> Finding:
    if sync is None:
        return Finding(
            "sync", UNKNOWN, "The server does not tell its settings (CONFIG is denied).", "See appendfsync there."
        )
    if sync == "no":
        return Finding(
            "sync",
            FAIL,
            "The server never says that counts are on its disk (appendfsync no), so that journals would pile up.",
            "Set appendfsync to always.",
        )
    if sync == "everysec" and (facts.software != REDIS or facts.version < (8, 0, 0)):
        return Finding(
            "sync",
            WARN,
            f"{facts.name} says too early that counts are on its disk (appendfsync everysec): a power cut costs it "
            "a second or two, which journal files that are held bring back.",
            "Set appendfsync to always; batches make it cheap.",
        )
    return Finding("sync", OK, f"Its append-only file is synced: {sync}.")


def _check_default_user(client: redis.Redis) -> Finding:
    try:
        user: Any = client.acl_getuser("default")
    except redis.ResponseError:
        return Finding(
            "acl",
            UNKNOWN,
            "This user may not see the user `default`.",
            "See that its rules are `on ~* &* +@all`: otherwise this server drops every count when it restarts.",
        )
    if not user or not _may_do_all(user):
        return Finding(
            "acl",
            FAIL,
            "The user `default` may not do everything: this server then drops every count when it restarts.",
            "Lock it with `ACL SETUSER default on resetpass ~* &* +@all`: nobody can log in without a password.",
        )
    return Finding("acl", OK, "The user `default` may do what reading the append-only file back needs.")


def _may_do_all(user: Mapping[str, Any]) -> bool:
    rules = [*user.get("categories", ()), *user.get("commands", ())]
    return "on" in user.get("flags", ()) and rules == ["+@all"] and list(user.get("keys", ())) == ["~*"]
