"""Every setting once: name, default, unit and help.

The environment variables, `hitledger settings`, the options of `hitledger serve` and the
settings page of the docs are all made from the fields of `Settings`. Values are read once,
at start, from `HITLEDGER_*`; a name that is not listed here, or a value out of range, stops
the start with one line that names it. Needs the standard library only, so that counting in
somebody else's application stays light.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hitledger.addresses import CLUSTER, ONE, SCHEMES, SENTINEL, hide_password, normal_form, read_address
from hitledger.errors import SettingsError

PREFIX = "HITLEDGER_"
Parser = Callable[[str], Any]
TrustedProxies = int | tuple[IPv4Network | IPv6Network, ...]
"""How many proxies stand before the service, or where they are."""


@dataclass(frozen=True)
class Kind:
    """How one setting's text is read: a parser that raises ValueError, and what it allows."""

    parse: Parser
    allowed: str
    secret: bool = False


def _integer(low: int, high: int, *, none: bool = False) -> Kind:
    def parse(text: str) -> int:
        if not re.fullmatch(r"-?\d{1,20}", text):
            raise ValueError(text)
        value = int(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return Kind(parse, f"a whole number from {low:,} to {high:,}" + (" or unset" if none else ""))


def _flag() -> Kind:
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}

    def parse(text: str) -> bool:
        if text.lower() not in words:
            raise ValueError(text)
        return words[text.lower()]

    return Kind(parse, "1, true, yes, on, 0, false, no or off")


def _choice(*options: str) -> Kind:
    def parse(text: str) -> str:
        if text not in options:
            raise ValueError(text)
        return text

    return Kind(parse, "one of " + ", ".join(options))


def _text(pattern: str, allowed: str) -> Kind:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(text)
        return text

    return Kind(parse, allowed)


def _path() -> Kind:
    def parse(text: str) -> Path:
        if not text or "\0" in text:
            raise ValueError(text)
        return Path(text).expanduser()

    return Kind(parse, "a folder's path")


def _path_list() -> Kind:
    def parse(text: str) -> tuple[str, ...]:
        items = tuple(item.strip() for item in text.split(",") if item.strip())
        if any(not item.startswith("/") for item in items):
            raise ValueError(text)
        return items

    return Kind(parse, "paths that begin with /, separated by commas; one that ends in * is a prefix")


def _server_url(*kinds: str) -> Kind:
    def parse(text: str) -> str:
        if read_address(text).kind not in kinds:
            raise ValueError(text)
        return normal_form(text)

    allowed = [scheme for scheme in SCHEMES if (scheme.partition("+")[2] or ONE) in kinds]
    schemes = ", ".join(f"{scheme}://" for scheme in allowed)
    return Kind(parse, f"an address that begins with {schemes} (valkey for redis means the same)", secret=True)


def _rate() -> Kind:
    def parse(text: str) -> str:
        if not re.fullmatch(r"[1-9]\d{0,8}/([1-9]\d{0,5} )?(second|minute|hour|day)s?", text):
            raise ValueError(text)
        return text

    return Kind(parse, "requests and a time, such as 100/minute or 50/30 seconds")


def _proxies() -> Kind:
    def parse(text: str) -> TrustedProxies:
        if re.fullmatch(r"[0-9]", text):
            return int(text)
        return tuple(ip_network(item.strip()) for item in text.split(","))

    return Kind(parse, "how many there are, 0 to 9, or their addresses and networks, separated by commas")


def _hosts() -> Kind:
    def parse(text: str) -> tuple[str, ...]:
        items = tuple(item.strip().lower() for item in text.split(","))
        if any(not re.fullmatch(r"\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]", item) for item in items):
            raise ValueError(text)
        return items

    return Kind(parse, "host names without a port, separated by commas; one that begins with a dot has all below it")


def _origins() -> Kind:
    def parse(text: str) -> tuple[str, ...]:
        items = tuple(item.strip() for item in text.split(","))
        if any(item != "*" and re.fullmatch(r"https?://[^/?#@\s]+", item) is None for item in items):
            raise ValueError(text)
        return items

    return Kind(parse, "origins such as https://example.org, separated by commas, or *")


def _http_url() -> Kind:
    def parse(text: str) -> str:
        parts = urlsplit(text)
        _ = parts.port
        bad = parts.path.strip("/") or parts.query or parts.fragment or parts.username
        if parts.scheme not in ("http", "https") or not parts.hostname or bad:
            raise ValueError(text)
        return f"{parts.scheme}://{parts.netloc}"

    return Kind(parse, "http://host:port or https://host:port")


def setting(default: Any, kind: Kind, help_text: str, unit: str = "") -> Any:
    """Declare one field of `Settings`."""
    return field(default=default, metadata={"kind": kind, "help": help_text, "unit": unit})


@dataclass(frozen=True)
class Settings:
    """All settings, checked. Build it with `Settings.from_environment`, or directly in tests."""

    host: str = setting(
        "127.0.0.1", _text(r"[A-Za-z0-9.:_-]{1,253}", "a host name or an address"), "Address to listen on."
    )
    port: int = setting(5000, _integer(1, 65535), "Port to listen on.")
    workers: int = setting(os.cpu_count() or 1, _integer(1, 512), "Web processes; the default is the number of cores.")
    threads: int = setting(16, _integer(2, 1024), "Threads of each web process.")
    redis_url: str | None = setting(
        None,
        _server_url(ONE, CLUSTER, SENTINEL),
        "The ledger's Redis or Valkey. Unset: an embedded Valkey in the data folder.",
    )
    broker_url: str | None = setting(
        None, _server_url(ONE), "The Celery broker for test runs. Unset: the ledger's server, where it is a single one."
    )
    data_dir: Path = setting(Path(".hitledger"), _path(), "Folder of the journal and of the embedded Valkey's files.")
    key_prefix: str = setting(
        "hitledger", _text(r"[A-Za-z0-9_.-]{1,64}", "1 to 64 letters, digits, _ . or -"), "First part of every key."
    )
    shards: int | None = setting(
        None,
        _integer(1, 1024, none=True),
        "Shards of a new ledger; fixed once it is made. Unset: what the ledger has, else 1, or 64 in a cluster.",
    )
    self_url: str | None = setting(
        None, _http_url(), "Where test runs send their requests. Unset: this service's own address."
    )
    test_max_requests: int = setting(
        1_000_000, _integer(1, 1_000_000_000), "Most requests that one test run may ask for.", "requests"
    )
    test_connections: int = setting(
        32, _integer(1, 1024), "Keep-alive connections of each test-run task.", "connections"
    )
    on_journal_failure: str = setting(
        "serve",
        _choice("serve", "refuse"),
        "When a hit cannot be journalled: serve and tally it as lost, or refuse with 503.",
    )
    journal_sync: str = setting(
        "interval",
        _choice("none", "interval", "each"),
        "When the journal is synced to disk: by the kernel, every 100 ms, or in each request.",
    )
    journal_file_bytes: int = setting(
        64 * 2**20, _integer(4096, 2**40), "A process moves on to its next journal file at this size.", "bytes"
    )
    journal_cap_bytes: int = setting(
        8 * 2**30, _integer(65536, 2**50), "Most bytes of journal on a host; hits beyond it are lost, loudly.", "bytes"
    )
    journal_hold_seconds: int = setting(
        900, _integer(0, 365 * 86400), "How long a posted journal file is kept before it is deleted.", "seconds"
    )
    journal_hold_bytes: int = setting(
        2 * 2**30, _integer(0, 2**50), "Most bytes of posted journal files that are kept on a host.", "bytes"
    )
    posting_interval_ms: int = setting(
        100, _integer(1, 60_000), "Longest pause between two rounds of posting.", "milliseconds"
    )
    ledger_replicas: int = setting(
        0, _integer(0, 64), "Replicas that must have a posted file on disk before it is deleted.", "replicas"
    )
    max_urls: int = setting(
        50_000_000, _integer(1, 2**40), "Distinct URLs that the ledger takes; hits on others go to (overflow).", "URLs"
    )
    max_path_bytes: int = setting(
        2048, _integer(16, 65535), "A longer path is answered with 414 and counted under (oversized).", "bytes"
    )
    count_unmatched: bool = setting(False, _flag(), "Count 404s and 405s by path too, instead of under (unmatched).")
    merge_trailing_slash: bool = setting(
        False, _flag(), "Count /api/one and /api/one/ as one URL, the one without the slash."
    )
    uncounted_paths: tuple[str, ...] = setting(
        ("/livez", "/readyz", "/metrics", "/static/*", "/live/*"),
        _path_list(),
        "Paths that are not counted; one that ends in * is a prefix.",
    )
    retention_hours: int = setting(
        48, _integer(0, 24 * 366), "How long counts by hour are kept; 0 keeps none.", "hours"
    )
    retention_days: int = setting(92, _integer(0, 3660), "How long counts by day are kept; 0 keeps none.", "days")
    retention_months: int = setting(60, _integer(0, 1200), "How long counts by month are kept; 0 keeps none.", "months")

    report_wait_seconds: int = setting(
        10, _integer(0, 60), "How long a request waits for a report that must be added up first.", "seconds"
    )
    report_max_entries: int = setting(
        100_000_000,
        _integer(1000, 2**40),
        "Most entries of the ledger that one report may add up, about 2 million a second.",
        "entries",
    )
    report_cache_bytes: int = setting(
        2**30, _integer(0, 2**50), "Most bytes of added-up reports that are kept in the data folder.", "bytes"
    )
    patterns_file: Path | None = setting(
        None, _path(), "A TOML file of patterns under which reports add URLs up with group=patterns."
    )
    cors_origins: tuple[str, ...] = setting(
        (), _origins(), "Origins whose pages may read the reports from a browser; * is any."
    )
    trusted_hosts: tuple[str, ...] = setting(
        (), _hosts(), "Hosts that requests may name; others are answered with 421. Unset: any."
    )
    trusted_proxies: TrustedProxies = setting(
        0, _proxies(), "The proxies before the service, whose X-Forwarded-For is believed: how many, or which."
    )

    limit_stats: str | None = setting(None, _rate(), "How often a client may ask for reports. Unset: without limit.")
    limit_export: str | None = setting(None, _rate(), "How often a client may ask for exports. Unset: without limit.")
    limit_test: str | None = setting(None, _rate(), "How often a client may start test runs. Unset: without limit.")
    limit_login: str | None = setting(None, _rate(), "How often a client may try to log in. Unset: without limit.")
    limit_headers: str = setting(
        "ietf",
        _choice("ietf", "pairs"),
        'How RateLimit is written: "stats";r=50;t=30 as in the IETF\'s draft, or limit=100, remaining=50, reset=5.',
    )
    limit_store_url: str | None = setting(
        None,
        _server_url(ONE),
        "The Redis or Valkey that keeps the limits' counts. Unset: the broker's, or the ledger's if that is one.",
    )
    limit_without_store: str = setting(
        "open",
        _choice("open", "closed"),
        "While the limits' store is away: open answers without limits, closed answers with 503.",
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read `HITLEDGER_*`; an empty value counts as unset.

        Raises:
            SettingsError: an unknown name, or a value of the wrong type or out of range.
        """
        source = os.environ if environment is None else environment
        known = {variable_of(each): each for each in fields(cls)}
        values: dict[str, Any] = {}
        for name, text in source.items():
            if not name.startswith(PREFIX):
                continue
            if name not in known:
                raise SettingsError(f"{name} is no setting.", _nearest(name, list(known)))
            if text.strip():
                values[known[name].name] = _parse(name, known[name], text.strip())
        return cls(**values)

    @property
    def journal_dir(self) -> Path:
        """The folder of this host's journal files."""
        return self.data_dir / "journal"

    @property
    def celery_broker_url(self) -> str | None:
        """The broker of test runs; None where it is the embedded Valkey, which has no address yet.

        Raises:
            SettingsError: the ledger's servers cannot be the broker, and no other is set.
        """
        if self.broker_url or self.redis_url is None:
            return self.broker_url
        if read_address(self.redis_url).kind != ONE:
            raise SettingsError(
                "Test runs need HITLEDGER_BROKER_URL, because Celery cannot use the ledger's cluster or Sentinels.",
                "Set it to a single Redis or Valkey server; it holds no counts.",
            )
        return self.redis_url

    @property
    def limits(self) -> dict[str, str]:
        """The limits that are set, by name."""
        each = {"stats": self.limit_stats, "export": self.limit_export, "test": self.limit_test}
        return {name: rate for name, rate in {**each, "login": self.limit_login}.items() if rate}

    @property
    def own_url(self) -> str:
        """The address test runs go to: configured, never taken from a request."""
        if self.self_url:
            return self.self_url
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        return (
            f"http://[{host}]:{self.port}"
            if ":" in host.strip("[]") and host[0] != "["
            else f"http://{host}:{self.port}"
        )

    def describe(self) -> list[dict[str, str]]:
        """Return one row a setting: name, value (secrets hidden), default, unit, allowed, help."""
        return [
            {
                "name": variable_of(each),
                "value": _shown(each, getattr(self, each.name)),
                "default": _shown(each, each.default),
                "unit": each.metadata["unit"],
                "allowed": each.metadata["kind"].allowed,
                "help": each.metadata["help"],
            }
            for each in fields(self)
        ]


def variable_of(each: Field[Any]) -> str:
    """Return the environment variable of a field of `Settings`."""
    return PREFIX + each.name.upper()


def _parse(name: str, each: Field[Any], text: str) -> Any:
    kind: Kind = each.metadata["kind"]
    try:
        return kind.parse(text)
    except ValueError:
        shown = "***" if kind.secret else repr(text[:200])
        raise SettingsError(f"{name}={shown} is not allowed.", f"It takes {kind.allowed}.") from None


def _nearest(name: str, known: list[str]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - only a mistake pays for it

    close = get_close_matches(name, known, n=1)
    if close:
        return f"Did you mean {close[0]}?"
    return "`hitledger settings` lists them all."


def _shown(each: Field[Any], value: Any) -> str:
    if value is None or value is MISSING:
        return ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return "true" if value else "false"
    return hide_password(str(value)) if each.metadata["kind"].secret else str(value)
