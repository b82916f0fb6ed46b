"""Who sent a request, where proxies stand between: believed as far as the settings trust them, never further.

Each proxy adds to `X-Forwarded-For`, at its right end, whom it heard from; whatever stands
further to the left may have been written by anyone. So the list is read from the right, and
only past addresses that are trusted. A service that listens on `::` hears from IPv4 addresses as
`::ffff:10.0.0.1`; they are told as what they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from hitledger.kinds import TrustedProxies

_WITH_PORT = re.compile(r"\[(?P<v6>[^\]]+)\](:\d+)?|(?P<v4>[^:]+):\d+")


def client_address(environ: Mapping[str, Any], trusted: TrustedProxies) -> str:
    """Return the address of the client as the last trusted proxy, or the connection itself, names it."""
    peer = _peer(environ)
    if not trusted:
        return peer
    hops = _hops(environ, "HTTP_X_FORWARDED_FOR")
    if isinstance(trusted, int):
        return ([peer, *hops])[min(trusted, len(hops))]
    client = peer
    for hop in hops:
        if not _is_trusted(client, trusted):
            break
        client = hop
    return client


def is_https(environ: Mapping[str, Any], trusted: TrustedProxies) -> bool:
    """Tell whether the client speaks HTTPS, to this service or to a trusted proxy before it."""
    if environ.get("wsgi.url_scheme") == "https":
        return True
    peer = _peer(environ)
    if not trusted or not (isinstance(trusted, int) or _is_trusted(peer, trusted)):
        return False
    return str(environ.get("HTTP_X_FORWARDED_PROTO", "")).rpartition(",")[2].strip().lower() == "https"


def _peer(environ: Mapping[str, Any]) -> str:
    """Return whom the connection is with, as the server says; what is no address stays as it is."""
    text = str(environ.get("REMOTE_ADDR", ""))
    return str(_read(text) or text)


def _hops(environ: Mapping[str, Any], name: str) -> list[str]:
    """Return the addresses of a list that proxies have made, nearest first, up to the first that is none."""
    hops = []
    for text in reversed(str(environ.get(name, "")).split(",")):
        address = _read(text.strip())
        if address is None:
            break
        hops.append(str(address))
    return hops


def _read(text: str) -> IPv4Address | IPv6Address | None:
    if found := _WITH_PORT.fullmatch(text):
        text = found["v6"] or found["v4"]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def _is_trusted(address: str, trusted: TrustedProxies) -> bool:
    found = _read(address)
    assert not isinstance(trusted, int)
    return found is not None and any(found in network for network in trusted)
