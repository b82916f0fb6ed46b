"""No other site's page may change anything through a visitor's browser (CSRF).

The browser itself says where a request comes from: `Sec-Fetch-Site` (Fetch Metadata), which
no page can set or suppress and which every browser has sent since 2023 to https and to
localhost; to a plain-http host it sends `Origin`, which is compared instead. That is what
OWASP's cheat sheet and Go's `http.CrossOriginProtection` do since 2025: no token has to be
made, kept, put into each form and sent back by each script, and none can be forgotten. The
cookie's SameSite=Lax stands behind it. It holds without sign-in too: a page on the internet
must not start test runs on somebody's own machine.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Request

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
OWN = frozenset({"same-origin", "none"})
"""From a page of this service, or typed by the user."""


def is_cross_site(request: Request, own_hosts: frozenset[str]) -> bool:
    """Tell whether a page of another origin wants to change something here.

    A request that says nothing of where it comes from is no browser's.
    """
    if request.method in SAFE_METHODS:
        return False
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in OWN
    origin = request.headers.get("Origin")
    if origin is None:
        return False
    return _host_of(origin) not in own_hosts | {request.host}


def _host_of(origin: str) -> str | None:
    """Return an origin's host and port; None where it is no origin, which only a program sends."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def says_where_from(request: Request) -> bool:
    """Tell whether a request names its origin, as browsers' do."""
    return "Sec-Fetch-Site" in request.headers or "Origin" in request.headers
