"""paths: a request's bytes and the URL they are counted under."""

import string

from hypothesis import given
from hypothesis import strategies as st

from hitledger.paths import LINES, canonical, path_of, route_of, url_of

UNRESERVED = set(string.ascii_letters + string.digits + "-._~/%")


@given(st.binary())
def test_url_is_plain(path: bytes) -> None:
    """Whatever the bytes, the URL is ASCII of unreserved characters, slashes and percent escapes."""
    url = url_of(path)
    assert set(url) <= UNRESERVED
    assert url not in LINES


@given(st.binary(min_size=1))
def test_url_gives_the_path_back(path: bytes) -> None:
    """A URL stands for one path, byte by byte, so two paths never share one."""
    assert path_of(url_of(path)) == path


@given(st.binary())
def test_canonical_form_is_stable(path: bytes) -> None:
    """Making a canonical URL canonical again changes nothing."""
    url = url_of(path)
    assert canonical(url) == url


def test_canonical_form_of_what_people_type() -> None:
    """Lower-case escapes, escaped letters, query strings and text that is no ASCII find the same URL."""
    assert canonical("/api/%c3%a9/%41/?page=2#top") == "/api/%C3%A9/A/"
    assert canonical("/api/é/A/") == "/api/%C3%A9/A/"
    assert canonical("/api/\udcff/") == "/api/%FF/"


def test_bytes_that_are_no_text_stay_apart() -> None:
    """Two bytes that are no UTF-8 are two URLs."""
    assert url_of(b"/api/\xff/") == "/api/%FF/"
    assert url_of(b"/api/\xfe/") == "/api/%FE/"


@given(st.binary())
def test_merging_slashes(path: bytes) -> None:
    """Merged, a URL has no slash at its end, except that the root stays a slash."""
    merged = url_of(path, merge_trailing_slash=True)
    assert merged == "/" or not merged.endswith("/")
    assert merged == url_of(path + b"/", merge_trailing_slash=True)


def test_an_empty_path_is_the_root() -> None:
    """A request without any path counts as one for the root."""
    assert url_of(b"") == "/"


@given(st.text())
def test_a_route_is_plain(template: str) -> None:
    """Whatever a framework calls a route, it is kept as printable ASCII without spaces, and stays what it is."""
    route = route_of(template)
    assert all(0x20 < byte < 0x7F for byte in route)
    assert len(route) <= 1024
    assert route_of(route.decode()) == route


def test_a_route_stays_readable() -> None:
    """The ways in which frameworks write templates are kept as they are."""
    for template in ("/api/<int:id>/", "/api/{id}", "^api/(?P<id>[0-9]+)/$", "/files/{path:path}", "/a/*rest"):
        assert route_of(template).decode() == template
    assert route_of("/caf\u00e9/<a b>\n") == b"/caf%C3%A9/<a%20b>%0A"
