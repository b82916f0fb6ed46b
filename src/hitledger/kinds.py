"""The kinds of settings: how each one's text is read, and what is said to be allowed.

Needs the standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hitledger.addresses import ONE, SCHEMES, hide_password, is_loopback, normal_form, read_address
from hitledger.rights import RIGHTS, read_mapping

Parser = Callable[[str], Any]
TrustedProxies = int | tuple[IPv4Network | IPv6Network, ...]
"""How many proxies stand before the service, or where they are."""


@dataclass(frozen=True)
class Kind:
    """How one setting's text is read: a parser that raises ValueError, and what it allows."""

    parse: Parser
    allowed: str
    hide: Callable[[str], str] | None = None
    """How a secret is shown; None for what is none."""


def integer(low: int, high: int, *, none: bool = False) -> Kind:
    """A whole number."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?\d{1,20}", text):
            raise ValueError(text)
        value = int(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return Kind(parse, f"a whole number from {low:,} to {high:,}" + (" or unset" if none else ""))


def flag() -> Kind:
    """Yes or no."""
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}

    def parse(text: str) -> bool:
        if text.lower() not in words:
            raise ValueError(text)
        return words[text.lower()]

    return Kind(parse, "1, true, yes, on, 0, false, no or off")


def choice(*options: str) -> Kind:
    """One of some words."""

    def parse(text: str) -> str:
        if text not in options:
            raise ValueError(text)
        return text

    return Kind(parse, "one of " + ", ".join(options))


def matching(pattern: str, allowed: str) -> Kind:
    """Text that a pattern matches whole."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(text)
        return text

    return Kind(parse, allowed)


def path() -> Kind:
    """A folder or a file."""

    def parse(text: str) -> Path:
        if not text or "\0" in text:
            raise ValueError(text)
        return Path(text).expanduser()

    return Kind(parse, "a folder's path")


def path_list() -> Kind:
    """Paths of requests."""

    def parse(text: str) -> tuple[str, ...]:
        items = tuple(item.strip() for item in text.split(",") if item.strip())
        if any(not item.startswith("/") for item in items):
            raise ValueError(text)
        return items

    return Kind(parse, "paths that begin with /, separated by commas; one that ends in * is a prefix")


def server_url(*kinds: str) -> Kind:
    """The address of a Redis or Valkey of one of these kinds."""

    def parse(text: str) -> str:
        if read_address(text).kind not in kinds:
            raise ValueError(text)
        return normal_form(text)

    allowed = [scheme for scheme in SCHEMES if (scheme.partition("+")[2] or ONE) in kinds]
    schemes = ", ".join(f"{scheme}://" for scheme in allowed)
    return Kind(parse, f"an address that begins with {schemes} (valkey for redis means the same)", hide=hide_password)


def rate() -> Kind:
    """How many requests in how long."""

    def parse(text: str) -> str:
        if not re.fullmatch(r"[1-9]\d{0,8}/([1-9]\d{0,5} )?(second|minute|hour|day)s?", text):
            raise ValueError(text)
        return text

    return Kind(parse, "requests and a time, such as 100/minute or 50/30 seconds")


def proxies() -> Kind:
    """How many proxies stand before the service, or where they are."""

    def parse(text: str) -> TrustedProxies:
        if re.fullmatch(r"[0-9]", text):
            return int(text)
        return tuple(ip_network(item.strip()) for item in text.split(","))

    return Kind(parse, "how many there are, 0 to 9, or their addresses and networks, separated by commas")


def hosts() -> Kind:
    """Host names."""

    def parse(text: str) -> tuple[str, ...]:
        items = tuple(item.strip().lower() for item in text.split(","))
        if any(not re.fullmatch(r"\.?[a-z0-9-]+(\.[a-z0-9-]+)*", item) for item in items):
            raise ValueError(text)
        return items

    return Kind(parse, "host names without a port, separated by commas; one that begins with a dot has all below it")


def origins() -> Kind:
    """Origins of web pages, as browsers write them."""

    def parse(text: str) -> tuple[str, ...]:
        items = tuple(item.strip() for item in text.split(","))
        if any(item != "*" and re.fullmatch(r"https?://[^/?#@\s]+", item) is None for item in items):
            raise ValueError(text)
        return items

    return Kind(parse, "origins such as https://example.org, separated by commas, or *")


def http_url() -> Kind:
    """The address of a web service."""

    def parse(text: str) -> str:
        parts = urlsplit(text)
        _ = parts.port
        bad = parts.path.strip("/") or parts.query or parts.fragment or parts.username
        if parts.scheme not in ("http", "https") or not parts.hostname or bad:
            raise ValueError(text)
        return f"{parts.scheme}://{parts.netloc}"

    return Kind(parse, "http://host:port or https://host:port")


def secret(least: int = 1) -> Kind:
    """Text that is never shown."""

    def parse(text: str) -> str:
        if len(text) < least or not text.isascii() or not text.isprintable():
            raise ValueError(text)
        return text

    return Kind(parse, f"at least {least} printable ASCII characters", hide=lambda _: "***")


def issuer() -> Kind:
    """An OpenID Connect issuer: with TLS, as what it says decides who may do what, or on this machine."""

    def parse(text: str) -> str:
        parts = urlsplit(text)
        _ = parts.port
        if parts.query or parts.fragment or parts.username or not parts.hostname:
            raise ValueError(text)
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
            raise ValueError(text)
        return text

    return Kind(parse, "https://host/path, exactly as the provider calls itself; http:// on this machine only")


def several(*options: str) -> Kind:
    """Some of these words."""

    def parse(text: str) -> tuple[str, ...]:
        items = tuple(item.strip() for item in text.split(","))
        if not set(items) <= set(options):
            raise ValueError(text)
        return items

    return Kind(parse, "some of " + ", ".join(options) + ", separated by commas")


def rights_of_values() -> Kind:
    """Which rights a value of a claim gives; kept as text, read by `hitledger.rights`."""

    def parse(text: str) -> str:
        read_mapping(text)
        return text

    return Kind(parse, f"value=right+right; value=right, with rights of {', '.join(RIGHTS)}; * is every value")
