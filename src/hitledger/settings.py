"""Every setting once: name, default, unit and help.

The environment variables, `hitledger settings`, the options of `hitledger serve` and the
settings page of the docs are all made from the fields of `Settings`. Values are read once,
at start, from `HITLEDGER_*`; a name that is not listed here, or a value out of range, stops
the start with one line that names it. Needs the standard library only, so that counting in
somebody else's application stays light.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from hitledger.addresses import CLUSTER, ONE, SENTINEL, is_loopback, read_address, with_door
from hitledger.errors import SettingsError
from hitledger.kinds import (
    Kind,
    TrustedProxies,
    choice,
    flag,
    hosts,
    http_url,
    integer,
    issuer,
    matching,
    origins,
    path,
    path_list,
    proxies,
    rate,
    rights_of_values,
    secret,
    server_url,
    several,
)

PREFIX = "HITLEDGER_"
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA")
"""Signatures by a key pair only: with a shared secret, whoever can check a token can make one."""


def setting(default: Any, kind: Kind, help_text: str, unit: str = "") -> Any:
    """Declare one field of `Settings`."""
    return field(default=default, metadata={"kind": kind, "help": help_text, "unit": unit})


@dataclass(frozen=True)
class Settings:
    """All settings, checked. Build it with `Settings.from_environment`, or directly in tests."""

    host: str = setting(
        "127.0.0.1", matching(r"[A-Za-z0-9.:_-]{1,253}", "a host name or an address"), "Address to listen on."
    )
    port: int = setting(5000, integer(1, 65535), "Port to listen on.")
    workers: int = setting(os.cpu_count() or 1, integer(1, 512), "Web processes; the default is the number of cores.")
    threads: int = setting(16, integer(2, 1024), "Threads of each web process.")
    redis_url: str | None = setting(
        None,
        server_url(ONE, CLUSTER, SENTINEL),
        "The ledger's Redis or Valkey. Unset: an embedded Valkey in the data folder.",
    )
    broker_url: str | None = setting(
        None, server_url(ONE), "The Celery broker for test runs. Unset: the ledger's server, where it is a single one."
    )
    redis_password_file: Path | None = setting(None, path(), "A file with the password of HITLEDGER_REDIS_URL's user.")
    redis_ca_file: Path | None = setting(
        None, path(), "Who vouches for the ledger's certificate (PEM). Unset: the system's."
    )
    redis_cert_file: Path | None = setting(None, path(), "The certificate that is shown to the ledger (PEM).")
    redis_key_file: Path | None = setting(None, path(), "The certificate's private key (PEM).")
    data_dir: Path = setting(Path(".hitledger"), path(), "Folder of the journal and of the embedded Valkey's files.")
    key_prefix: str = setting(
        "hitledger", matching(r"[A-Za-z0-9_.-]{1,64}", "1 to 64 letters, digits, _ . or -"), "First part of every key."
    )
    shards: int | None = setting(
        None,
        integer(1, 1024, none=True),
        "Shards of a new ledger; fixed once it is made. Unset: what the ledger has, else 1, or 64 in a cluster.",
    )
    self_url: str | None = setting(
        None, http_url(), "Where test runs send their requests. Unset: this service's own address."
    )
    test_max_requests: int = setting(
        1_000_000, integer(1, 1_000_000_000), "Most requests that one test run may ask for.", "requests"
    )
    test_connections: int = setting(
        32, integer(1, 1024), "Keep-alive connections of each test-run task.", "connections"
    )
    on_journal_failure: str = setting(
        "serve",
        choice("serve", "refuse"),
        "When a hit cannot be journalled: serve and tally it as lost, or refuse with 503.",
    )
    journal_sync: str = setting(
        "interval",
        choice("none", "interval", "each"),
        "When the journal is synced to disk: by the kernel, every 100 ms, or in each request.",
    )
    journal_file_bytes: int = setting(
        64 * 2**20, integer(4096, 2**40), "A process moves on to its next journal file at this size.", "bytes"
    )
    journal_cap_bytes: int = setting(
        8 * 2**30, integer(65536, 2**50), "Most bytes of journal on a host; hits beyond it are lost, loudly.", "bytes"
    )
    journal_hold_seconds: int = setting(
        900, integer(0, 365 * 86400), "How long a posted journal file is kept before it is deleted.", "seconds"
    )
    journal_hold_bytes: int = setting(
        2 * 2**30, integer(0, 2**50), "Most bytes of posted journal files that are kept on a host.", "bytes"
    )
    posting_interval_ms: int = setting(
        100, integer(1, 60_000), "Longest pause between two rounds of posting.", "milliseconds"
    )
    ledger_replicas: int = setting(
        0, integer(0, 64), "Replicas that must have a posted file on disk before it is deleted.", "replicas"
    )
    max_urls: int = setting(
        50_000_000, integer(1, 2**40), "Distinct URLs that the ledger takes; hits on others go to (overflow).", "URLs"
    )
    max_path_bytes: int = setting(
        2048, integer(16, 65535), "A longer path is answered with 414 and counted under (oversized).", "bytes"
    )
    count_unmatched: bool = setting(False, flag(), "Count 404s and 405s by path too, instead of under (unmatched).")
    merge_trailing_slash: bool = setting(
        False, flag(), "Count /api/one and /api/one/ as one URL, the one without the slash."
    )
    uncounted_paths: tuple[str, ...] = setting(
        ("/livez", "/readyz", "/metrics", "/static/*", "/live/*"),
        path_list(),
        "Paths that are not counted; one that ends in * is a prefix.",
    )
    intake_socket: Path | None = setting(
        None, path(), "The socket on which `hitledger intake` takes lines. Unset: intake.sock in the data folder."
    )
    intake_mode: str = setting(
        "0660", matching(r"0?[0-7]{3}", "an octal mode such as 0660"), "That socket's mode: who may send lines."
    )
    retention_hours: int = setting(48, integer(0, 24 * 366), "How long counts by hour are kept; 0 keeps none.", "hours")
    retention_days: int = setting(92, integer(0, 3660), "How long counts by day are kept; 0 keeps none.", "days")
    retention_months: int = setting(60, integer(0, 1200), "How long counts by month are kept; 0 keeps none.", "months")

    keep_sections: bool = setting(
        False,
        flag(),
        "Whether a new ledger keeps its sections while posting, so that they come at once; it costs memory and time.",
    )
    report_wait_seconds: int = setting(
        10, integer(0, 60), "How long a request waits for a report that must be added up first.", "seconds"
    )
    report_max_entries: int = setting(
        100_000_000,
        integer(1000, 2**40),
        "Most entries of the ledger that one report may add up, about 2 million a second.",
        "entries",
    )
    report_cache_bytes: int = setting(
        2**30, integer(0, 2**50), "Most bytes of added-up reports that are kept in the data folder.", "bytes"
    )
    patterns_file: Path | None = setting(
        None, path(), "A TOML file of patterns under which reports add URLs up with group=patterns."
    )
    log_level: str = setting(
        "info",
        choice("debug", "info", "warning", "error"),
        "What is logged: this and all that is graver; of other people's modules, warnings and errors.",
    )
    log_format: str = setting(
        "auto",
        choice("auto", "json", "console"),
        "Form of log lines: JSON, or for people; auto is console where standard error is a terminal.",
    )
    access_log: bool = setting(
        False, flag(), "Log a line for each answered request: path without query, route, status, duration."
    )
    traces: bool = setting(
        False, flag(), "Make traces by OpenTelemetry; its own variables (OTEL_*) say where they go and which are kept."
    )
    admin_port: int | None = setting(
        None,
        integer(1, 65535, none=True),
        "Port of its own for /metrics, /livez and /readyz, which are then on no other. Unset: the service's port.",
    )
    cors_origins: tuple[str, ...] = setting(
        (), origins(), "Origins whose pages may read the reports from a browser; * is any."
    )
    trusted_hosts: tuple[str, ...] = setting(
        (), hosts(), "Hosts that requests may name; others are answered with 421. Unset: any."
    )
    trusted_proxies: TrustedProxies = setting(
        0, proxies(), "The proxies before the service, whose X-Forwarded-For is believed: how many, or which."
    )

    limit_stats: str | None = setting(None, rate(), "How often a client may ask for reports. Unset: without limit.")
    limit_export: str | None = setting(
        None, rate(), "How often a client may ask for exports and audits. Unset: without limit."
    )
    limit_test: str | None = setting(None, rate(), "How often a client may start test runs. Unset: without limit.")
    limit_login: str | None = setting(None, rate(), "How often a client may try to log in. Unset: without limit.")
    limit_headers: str = setting(
        "ietf",
        choice("ietf", "pairs"),
        'How RateLimit is written: "stats";r=50;t=30 as in the IETF\'s draft, or limit=100, remaining=50, reset=5.',
    )
    limit_store_url: str | None = setting(
        None,
        server_url(ONE),
        "The Redis or Valkey that keeps the limits' counts. Unset: the broker's, or the ledger's if that is one.",
    )
    limit_without_store: str = setting(
        "open",
        choice("open", "closed"),
        "While the limits' store is away: open answers without limits, closed answers with 503.",
    )

    auth: str | None = setting(
        None,
        choice("none", "keys", "oidc"),
        "Who is let in: holders of API keys; also those whom an OpenID Connect issuer vouches for; or anybody (none). "
        "Unset: none on a loopback address, and no start on any other.",
    )
    token: str | None = setting(None, secret(), "What commands show to the service at `--url`: an API key, or a token.")
    public_url: str | None = setting(
        None, http_url(), "The address by which browsers reach the service. Unset: this service's own address."
    )
    session_key: str | None = setting(
        None, secret(32), "Signs sign-in cookies. Unset: made once, in the data folder, for this host."
    )
    session_key_file: Path | None = setting(
        None, path(), "Instead of it: a file with one key a line; the first signs, all are good."
    )
    session_hours: int = setting(8, integer(1, 24 * 30), "How long a sign-in lasts.", "hours")
    oidc_issuer: str | None = setting(None, issuer(), "The OpenID Connect issuer; everything else is discovered there.")
    oidc_client_id: str | None = setting(
        None, matching(r"[\x21-\x7e]{1,256}", "printable ASCII without spaces"), "This service's name at the issuer."
    )
    oidc_client_secret: str | None = setting(None, secret(), "Its password there. Unset: it has none, PKCE suffices.")
    oidc_client_secret_file: Path | None = setting(None, path(), "Instead of it: a file with the password.")
    oidc_audience: str | None = setting(
        None,
        matching(r"[\x21-\x7e]{1,512}", "printable ASCII without spaces"),
        "The audience that a program's token must name. Unset: the client id.",
    )
    oidc_algorithms: tuple[str, ...] = setting(
        ("RS256", "PS256", "ES256", "Ed25519"),
        several(*ALGORITHMS),
        "How tokens may be signed; nothing else is accepted.",
    )
    oidc_leeway_seconds: int = setting(30, integer(0, 300), "How far the issuer's clock may be off.", "seconds")
    oidc_scopes: str = setting(
        "openid profile email", matching(r"openid( [\x21-\x7e]+)*", "openid and other scopes"), "What sign-in asks for."
    )
    oidc_rights_claim: str = setting(
        "scope",
        matching(r"[\x21-\x7e]{1,256}", "a claim's name, or a path such as realm_access.roles"),
        "The claim that says what somebody may do: a list, or words with spaces between.",
    )
    oidc_rights: str | None = setting(
        None,
        rights_of_values(),
        "What its values give, as in `ops=stats:read+test:run; staff=stats:read`. Unset: the rights by their names.",
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
        return cls(**values).with_door()

    def with_door(self) -> Settings:
        """Return the settings with what opens the ledger's door in its address, where every client finds it.

        Raises:
            SettingsError: a file cannot be read, or the address has it already.
        """
        files = {
            "ssl_ca_certs": self.redis_ca_file,
            "ssl_certfile": self.redis_cert_file,
            "ssl_keyfile": self.redis_key_file,
        }
        options = {name: str(file.absolute()) for name, file in files.items() if file}
        if not options and not self.redis_password_file:
            return self
        if self.redis_url is None:
            raise SettingsError(
                "HITLEDGER_REDIS_..._FILE is set, and no server to use it with.", "Set HITLEDGER_REDIS_URL."
            )
        password = None
        if self.redis_password_file:
            password = read_secret(self.redis_password_file, "HITLEDGER_REDIS_PASSWORD_FILE")
        for file in filter(None, files.values()):
            read_secret(file, "HITLEDGER_REDIS_..._FILE")
        try:
            return replace(self, redis_url=with_door(self.redis_url, password, options))
        except ValueError as error:
            raise SettingsError(f"HITLEDGER_REDIS_URL {error}.", "See HITLEDGER_REDIS_..._FILE.") from None

    @property
    def journal_dir(self) -> Path:
        """The folder of this host's journal files."""
        return self.data_dir / "journal"

    @property
    def meters_dir(self) -> Path:
        """The folder in which this host's processes keep their figures for /metrics."""
        return self.data_dir / "meters"

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
    def auth_mode(self) -> str:
        """Who is let in: none (anybody), keys or oidc.

        Raises:
            SettingsError: others could reach the service and nobody has said that they may, or oidc lacks a setting.
        """
        if self.auth is None and self.oidc_issuer:
            raise SettingsError("HITLEDGER_OIDC_ISSUER is set, and HITLEDGER_AUTH is not.", "Set it to oidc.")
        if self.auth is None and not is_loopback(self.host):
            raise SettingsError(
                f"The service would listen on {self.host} and let anybody in.",
                "Set HITLEDGER_AUTH to keys or oidc; or to none, where nobody reaches it but those who may.",
            )
        if self.auth == "oidc" and not (self.oidc_issuer and self.oidc_client_id):
            raise SettingsError(
                "HITLEDGER_AUTH=oidc needs an issuer and this service's name there.",
                "Set HITLEDGER_OIDC_ISSUER and HITLEDGER_OIDC_CLIENT_ID.",
            )
        return self.auth or "none"

    def secret(self, name: str) -> str | None:
        """Return a secret: the setting of that name, or what the file holds that `<name>_file` names.

        Raises:
            SettingsError: both are set, or the file cannot be read or is empty.
        """
        text: str | None = getattr(self, name)
        file: Path | None = getattr(self, f"{name}_file")
        variable = PREFIX + name.upper()
        if file is None:
            return text
        if text is not None:
            raise SettingsError(f"{variable} and {variable}_FILE are both set.", "Unset one.")
        return read_secret(file, f"{variable}_FILE")

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


def read_secret(file: Path, variable: str) -> str:
    """Return what a file holds, without the line end that editors add. Raises SettingsError."""
    try:
        text = file.read_text("utf-8").strip("\r\n")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingsError(f"{variable}={str(file)!r} cannot be read: {reason}.", "See its owner and mode.") from None
    if not text:
        raise SettingsError(f"{variable}={str(file)!r} is empty.", "Write the secret into it.")
    return text


def variable_of(each: Field[Any]) -> str:
    """Return the environment variable of a field of `Settings`."""
    return PREFIX + each.name.upper()


def _parse(name: str, each: Field[Any], text: str) -> Any:
    kind: Kind = each.metadata["kind"]
    try:
        return kind.parse(text)
    except ValueError:
        shown = "***" if kind.hide else repr(text[:200])
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
    hide = each.metadata["kind"].hide
    return hide(str(value)) if hide else str(value)
