"""`hitledger doctor`: does this host and its ledger keep what the guarantees lean on?

It tries things out rather than trust versions, and it changes nothing but a key that expires
within seconds. Servers that do not let themselves be asked (managed ones deny CONFIG) are
`unknown`, and said to be. The quick, harmless part runs at every start: `startup_checks`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import redis

from hitledger.addresses import CLUSTER, ONE, SENTINEL, is_loopback, read_address
from hitledger.checks import server_findings
from hitledger.connections import Server, server_errors
from hitledger.dispatch import error_in, send_together
from hitledger.embedded import with_ledger
from hitledger.errors import HitledgerError, LedgerError, LedgerUnavailableError, ServiceError, SettingsError
from hitledger.findings import FAIL, OK, UNKNOWN, WARN, Finding
from hitledger.hostchecks import AT_START, LATER, host_findings
from hitledger.ledger import LedgerStore
from hitledger.servers import ServerFacts
from hitledger.settings import Settings

PROBES = 5
PROBE_MS = 1500
"""How long one WAITAOF of the probe may take: less than a command may."""
HONEST_SECONDS = 0.5
"""Of syncs a second apart, each behind the first is waited for longer than this, on however busy a machine;
a server that answers before them is quick at least once."""
CLOCK_SECONDS = 1.0
FAR_OFF_SECONDS = 60.0
ON = {ONE: "one server", CLUSTER: "a cluster", SENTINEL: "what Sentinel watches"}


def startup_checks(settings: Settings, store: LedgerStore) -> list[Finding]:
    """Run the checks that every start runs; a ledger that is away is not looked at. Never raises."""
    found = [*host_findings(settings, AT_START), *_check_broker(settings)]
    with suppress(LedgerError), server_errors():
        for server in store.servers():
            if server.primary:
                found += server_findings(server.client, store.kind, server.name)
    return found


def stop_on_failure(findings: list[Finding]) -> None:
    """Raise ServiceError for the first finding that must stop the start."""
    for each in findings:
        if each.status == FAIL:
            raise ServiceError(each.what, each.remedy)


def examine(settings: Settings) -> list[Finding]:
    """Run every check. Never raises for what it finds."""
    found = [*host_findings(settings, (*AT_START, *LATER)), *_check_broker(settings)]
    try:
        settings = with_ledger(settings)
    except ServiceError as error:
        return [*found, Finding("ledger", FAIL, error.message, error.hint)]
    found += _check_transport(settings)
    store = LedgerStore(settings)
    try:
        found += _examine_ledger(settings, store)
    finally:
        store.close()
    return found


def _examine_ledger(settings: Settings, store: LedgerStore) -> Iterator[Finding]:
    ledger = _check_ledger(store)
    yield ledger
    try:
        servers = store.servers()
    except LedgerError:
        return  # said above
    for server in servers:
        yield from _quickly(server, store.kind)
        yield from _slowly(server, settings)
    if ledger.status == OK:
        yield from _probe_waitaof(store)


def _check_ledger(store: LedgerStore) -> Finding:
    try:
        identity = store.open()
    except LedgerUnavailableError as error:
        return Finding("ledger", FAIL, error.message, "Start it, or correct HITLEDGER_REDIS_URL.")
    except HitledgerError as error:
        return Finding("ledger", FAIL, error.message, error.hint)
    made = time.strftime("%Y-%m-%d", time.gmtime(identity.made))
    shards = f"{identity.shards} shards" if identity.shards > 1 else "one shard"
    what = f"The ledger {identity.id}, made on {made}, has {shards} on {ON[store.kind]}."
    return Finding("ledger", OK, what)


def _check_broker(settings: Settings) -> list[Finding]:
    try:
        _ = settings.celery_broker_url
    except SettingsError as error:
        return [Finding("broker", FAIL, error.message, error.hint)]
    return []


def _check_transport(settings: Settings) -> list[Finding]:
    address = read_address(settings.redis_url or "")
    hosts = [node.host for node in address.nodes] or [urlsplit(address.url).hostname or ""]
    if address.url.startswith("redis:") and not all(not host or is_loopback(host) for host in hosts):
        remedy = "Use rediss:// (TLS) unless that network is the ledger's alone."
        return [Finding("transport", WARN, "The ledger's password and counts travel unencrypted.", remedy)]
    return [Finding("transport", OK, "Nobody on a network can read along.")]


def _quickly(server: Server, kind: str) -> list[Finding]:
    """Run the quick checks of one server."""
    try:
        with server_errors():
            return server_findings(server.client, kind, server.name)
    except LedgerError as error:
        return [Finding("server", FAIL if server.primary else WARN, error.message, error.hint, server.name)]


def _slowly(server: Server, settings: Settings) -> list[Finding]:
    """Run the other checks of one server that read only."""
    try:
        info: Mapping[str, Any] = server.client.info()
        found = [_check_clock_of(server.client)]
    except (redis.RedisError, OSError):
        return []  # the quick checks have said so
    if server.primary:
        found.append(_check_replicas(info, settings.ledger_replicas))
    facts = ServerFacts.of(info)
    if facts.aof and not facts.aof_write_ok:
        remedy = "Look at its log and its disk; what it holds may be gone with a restart."
        found.append(Finding("aof", FAIL, "The server could not write its append-only file.", remedy))
    return [replace(each, subject=server.name) for each in found]


def _check_clock_of(client: redis.Redis) -> Finding:
    before = time.time()
    seconds, microseconds = client.time()
    after = time.time()
    there = seconds + microseconds / 1e6
    apart = max(0.0, before - there, there - after)
    if apart < CLOCK_SECONDS:
        return Finding("server clock", OK, "The server's clock agrees with this host's.")
    status = FAIL if apart > FAR_OFF_SECONDS else WARN
    what = f"The server's clock and this host's are {apart:,.1f} s apart: periods expire at the wrong time."
    return Finding("server clock", status, what, "Set both, with NTP best.")


def _check_replicas(info: Mapping[str, Any], wanted: int) -> Finding:
    states = [each for name, each in info.items() if name.startswith("slave") and isinstance(each, dict)]
    online = sum(each.get("state") == "online" for each in states)
    if online < wanted:
        what = f"{online} replicas are online, and HITLEDGER_LEDGER_REPLICAS asks for {wanted}: no journal is deleted."
        return Finding("replicas", FAIL, what, "Bring the replicas back, or ask for fewer.")
    if online > wanted:
        what = f"{online} replicas may be promoted, and {wanted} must have a journal's counts before it is deleted."
        remedy = f"Set HITLEDGER_LEDGER_REPLICAS to {online}: else a failover may lose what is older than the hold."
        return Finding("replicas", WARN, what, remedy)
    return Finding("replicas", OK, f"{online} replicas are online, as many as must confirm.")


def _probe_waitaof(store: LedgerStore) -> Iterator[Finding]:
    """Try out, on every primary that has a shard, whether WAITAOF waits for the disk."""
    seen: set[int] = set()
    for shard in range(store.identity.shards):
        try:
            client = store.poster(shard)
        except LedgerError:
            continue
        if id(client) in seen:
            continue
        seen.add(id(client))
        options = client.connection_pool.connection_kwargs
        subject = str(options.get("path") or f"{options.get('host')}:{options.get('port')}")
        yield replace(_probe_one(client, store.key(f"{{{shard}}}", "probe")), subject=subject)


def _probe_one(client: redis.Redis, key: str) -> Finding:
    took: list[float] = []
    for number in range(PROBES):
        began = time.monotonic()
        commands = [("SET", key, number, "PX", 10_000), ("WAITAOF", 1, 0, PROBE_MS)]
        written, durable = send_together(client, commands)
        error = error_in(written) or error_in(durable)
        if error is not None:
            if "appendonly is disabled" in str(durable):
                remedy = "Set appendonly to yes and appendfsync to always."
                return Finding("waitaof", WARN, "The server keeps nothing on disk that could be waited for.", remedy)
            return Finding("waitaof", FAIL, error.message, error.hint or "Allow WAITAOF to this user.")
        if durable[0] < 1:
            what = f"The server did not say within {PROBE_MS / 1000} s that a write is on its disk."
            return Finding("waitaof", FAIL, what, "Set appendfsync to always; look at its disk.")
        took.append(time.monotonic() - began)
    return _judge(took, _sync_of(client))


def _sync_of(client: redis.Redis) -> str | None:
    try:
        return str(client.config_get("appendfsync").get("appendfsync"))
    except (redis.RedisError, OSError):
        return None


def _judge(took: list[float], sync: str | None) -> Finding:
    each = f"{sum(took) / PROBES * 1000:.1f} ms"
    if sync == "always":
        return Finding("waitaof", OK, f"A write is on the server's disk, and said to be, within {each}.")
    if min(took[1:]) > HONEST_SECONDS:
        return Finding("waitaof", OK, f"The server waits for its disk, {each} a time.")
    if sync is None:
        what = f"The server says within {each} that a write is on its disk; whether it is cannot be seen from here."
        return Finding("waitaof", UNKNOWN, what, "See that appendfsync is always there.")
    what = (
        f"The server says within {each} that a write is on its disk, and syncs it once a second (appendfsync {sync})."
    )
    return Finding("waitaof", FAIL, what, "Set appendfsync to always.")


def as_rows(findings: list[Finding]) -> list[dict[str, str]]:
    """Return findings as JSON has them."""
    names: tuple[str, ...] = ("check", "status", "subject", "what", "remedy")
    return [{name: str(getattr(each, name)) for name in names} for each in findings]
