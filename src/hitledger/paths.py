"""A request's path and the URL it is counted under.

A *path* is the bytes that the application saw. Its *URL* is those bytes percent-encoded in
one canonical form: the unreserved characters of RFC 3986, section 2.3, and `/` stand bare,
every other byte is `%` and two upper-case hex digits. So a URL is plain ASCII without spaces
or line ends, two paths share a URL only if they are equal byte by byte, and a URL can never
look like one of the `LINES`, which begin with a parenthesis.
"""

from __future__ import annotations

from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

from hitledger.journal import MOST_ROUTE_BYTES

UNMATCHED = "(unmatched)"
"""Where requests to no route (404) or with a wrong method (405) are counted."""
OVERSIZED = "(oversized)"
"""Where requests whose path is longer than the limit are counted."""
OVERFLOW = "(overflow)"
"""Where hits on new URLs are counted once the ledger holds as many as it may."""
NO_ROUTE = "(no route)"
"""Where reports by route count what has no route that anyone knows."""
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
LINES = (UNMATCHED, OVERSIZED, OVERFLOW)
"""The lines that stand beside the URLs in every report."""


def url_of(path: bytes, *, merge_trailing_slash: bool = False) -> str:
    """Return the canonical URL of a path; an empty path is `/`.

    With `merge_trailing_slash`, slashes at the end go, except that `/` stays `/`.
    """
    if merge_trailing_slash:
        path = path.rstrip(b"/")
    return quote_from_bytes(path or b"/", safe="/")


def path_of(url: str) -> bytes:
    """Return the path that a URL, canonical or as a person typed it, stands for.

    A query string or fragment is no part of it. Characters outside ASCII are read as UTF-8; bytes
    that are none stand in the text as `surrogateescape` leaves them.
    """
    return unquote_to_bytes(url.partition("#")[0].partition("?")[0].encode("utf-8", "surrogateescape"))


def canonical(url: str) -> str:
    """Return the canonical form of a URL that a person or a program typed."""
    return url_of(path_of(url))


def route_of(template: str) -> bytes:
    """Return a route's template as it is kept: printable ASCII without spaces, everything else percent-encoded."""
    return quote(template, safe=_PRINTABLE, errors="replace").encode()[:MOST_ROUTE_BYTES]
