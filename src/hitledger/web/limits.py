"""How often one client may ask: for reports, exports, test runs and to be logged in.

Off unless a setting names a limit, and then it costs the endpoints that have one; `/api/` is
never limited. The counts are in Redis or Valkey, where all web processes share them. A store
that is away makes nobody wait: its time-outs are short, and after a failure it is left alone
for a moment. `limits` counts by a sliding window: requests of the window before weigh as much
as it still overlaps, so that no two windows' worth can come at once.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

import redis
from flask import Blueprint, Response, g, request
from limits import RateLimitItem, parse
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry

from hitledger.addresses import ONE, read_address
from hitledger.clients import connection_options
from hitledger.errors import SettingsError
from hitledger.settings import Settings
from hitledger.web.auth.principal import principal
from hitledger.web.problems import problem
from hitledger.web.proxies import client_address

log = logging.getLogger("hitledger.web")

ENDPOINTS = {
    "stats.stats": "stats",
    "stats.one_url": "stats",
    "series.history": "stats",
    "series.series": "stats",
    "stats.export": "export",
    "audit.audit": "export",
    "runs.start": "test",
    "dashboard.start_run": "test",
    "auth.sign_in": "login",
    "auth.use_key": "login",
    "auth.callback": "login",
}
"""Which limit an endpoint is under."""
STORE_SECONDS = 0.25
"""How long the store may take to connect, and to answer; more would be felt."""
LEFT_ALONE_SECONDS = 1.0
CONNECTIONS = 64
PROBLEM_TYPE = "https://iana.org/assignments/http-problem-types#quota-exceeded"
V6_SITE_BITS = 64
"""A client has as many addresses of IPv6 as it likes, within one network of this size."""


@dataclass(frozen=True)
class Policy:
    """One limit."""

    name: str
    rate: RateLimitItem

    @property
    def window_seconds(self) -> int:
        """The time that the quota is for."""
        return int(self.rate.get_expiry())


@dataclass(frozen=True)
class Standing:
    """Where a client stands under a policy after a request."""

    policy: Policy
    allowed: bool
    remaining: int
    reset_seconds: int
    """When there is more again."""

    def headers(self, form: str) -> dict[str, str]:
        """Return RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-11, or as up to its 07)."""
        quota, window = self.policy.rate.amount, self.policy.window_seconds
        if form == "pairs":
            now = f"limit={quota}, remaining={self.remaining}, reset={self.reset_seconds}"
            return {"RateLimit": now, "RateLimit-Policy": f"{quota};w={window}"}
        name = self.policy.name
        return {
            "RateLimit": f'"{name}";r={self.remaining};t={self.reset_seconds}',
            "RateLimit-Policy": f'"{name}";q={quota};w={window}',
        }


class Limiter:
    """Counts requests in the store. Safe for threads."""

    def __init__(self, url: str, key_prefix: str, clock: Callable[[], float] = time.monotonic) -> None:
        options = connection_options(url) | {
            "socket_connect_timeout": STORE_SECONDS,
            "socket_timeout": STORE_SECONDS,
            "retry": Retry(NoBackoff(), 0),
        }
        pool = redis.BlockingConnectionPool(max_connections=CONNECTIONS, timeout=STORE_SECONDS, **options)
        # The address only says which client library is meant: the pool has the server's.
        storage = RedisStorage("redis://", connection_pool=pool, key_prefix=f"{key_prefix}:limits")
        self._strategy = SlidingWindowCounterRateLimiter(storage)
        self._clock = clock
        self._away_until = float("-inf")
        self._is_away = False

    def take(self, policy: Policy, client: str) -> Standing | None:
        """Count a request; None where the store is away."""
        if self._clock() < self._away_until:
            return None
        try:
            allowed = self._strategy.hit(policy.rate, policy.name, client)
            stats = self._strategy.get_window_stats(policy.rate, policy.name, client)
        except redis.RedisError as error:
            self._away_until = self._clock() + LEFT_ALONE_SECONDS
            if not self._is_away:
                log.warning("The limits' store cannot be used: %s", type(error).__name__)
            self._is_away = True
            return None
        if self._is_away:
            log.warning("The limits' store is back.")
        self._is_away = False
        reset = max(1, math.ceil(stats.reset_time - time.time()))
        return Standing(policy, allowed, stats.remaining if allowed else 0, reset)


class Limits:
    """The limits of the settings, to be put before endpoints."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._policies = {name: Policy(name, parse(rate)) for name, rate in settings.limits.items()}
        self._limiter = Limiter(_store_of(settings), settings.key_prefix) if self._policies else None

    def guard(self, blueprint: Blueprint) -> None:
        """Put the limits before a blueprint's endpoints; nothing where there are none."""
        if self._limiter:
            blueprint.before_request(self._check)
            blueprint.after_request(self._tell)

    def _check(self) -> None:
        policy = self._policies.get(ENDPOINTS.get(request.endpoint or "", ""))
        if policy is None or request.method == "OPTIONS":
            return
        assert self._limiter
        standing = self._limiter.take(policy, client_of_request(self._settings))
        if standing is None:
            if self._settings.limit_without_store == "closed":
                problem(503, "Requests cannot be counted against their limit now.", {"Retry-After": "2"})
            return
        g.standing = standing
        if not standing.allowed:
            problem(
                429,
                f"No more than {policy.rate.amount:,} requests in {policy.window_seconds:,} seconds are answered here.",
                {"Retry-After": str(standing.reset_seconds)},
                type=PROBLEM_TYPE,
                **{"violated-policies": [policy.name]},
            )

    def _tell(self, response: Response) -> Response:
        standing: Standing | None = g.get("standing")
        if standing:
            response.headers.update(standing.headers(self._settings.limit_headers))
        return response


def client_of_request(settings: Settings) -> str:
    """Return whose request this is: a known client's id, else its address, or its whole network of IPv6."""
    who = principal()
    if who.way in ("key", "token", "session"):
        return who.id
    text = client_address(request.environ, settings.trusted_proxies)
    try:
        address = ip_address(text)
    except ValueError:
        return "unknown"
    if isinstance(address, IPv6Address):
        return f"{IPv6Address(int(address) >> V6_SITE_BITS << V6_SITE_BITS)}/{V6_SITE_BITS}"
    return str(address)


def _store_of(settings: Settings) -> str:
    """Return the address of the server that keeps the limits' counts. Raises SettingsError where none is set."""
    url = settings.limit_store_url or settings.broker_url or settings.redis_url
    if url is None or read_address(url).kind != ONE:
        raise SettingsError(
            "The limits need a single Redis or Valkey to count in.", "Set HITLEDGER_LIMIT_STORE_URL to one."
        )
    return url
