"""What the lines of each server's log count under, and what is kept out."""

from __future__ import annotations

import json
import random
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitledger.counting import HitCounter
from hitledger.errors import SettingsError
from hitledger.ingest.formats import format_of
from hitledger.ingest.run import Options, Run
from hitledger.ingest.tally import Account, Tally
from hitledger.ingest.targets import Names, NotCountedError, target_of, unescape
from hitledger.ingest.times import Minutes
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
from tests.logs import SAMPLES, log_lines, naive

HOUR = 1_795_474_800 // 3600  # 2026-11-23T23:00Z

COUNTED = {
    "nginx.log": ("common", {
        "/api/one/": 2, "/api/caf%C3%A9": 2, "(unmatched)": 1, "/api/absolute": 1, "%2A": 1, "/a%20b": 1, "/": 1,
    }),
    "apache.log": ("common", {"/index.html": 1, "/a%22b": 1, "(unmatched)": 1, "/tab%09here": 1}),
    "caddy.log": ("json", {"/api/one/": 1, "/caf%C3%A9%20%22x%22": 1, "(unmatched)": 1}),
    "traefik.log": ("common", {"/whoami": 2, "(unmatched)": 1}),
    "traefik-json.log": ("json", {"/whoami": 1, "(unmatched)": 1}),
    "haproxy.log": ("haproxy", {"/index.html": 1, "/api/": 1}),
    "envoy.log": ("envoy", {"/api/v1/locations": 1}),
    "envoy-json.log": ("json", {"/api/v1/locations": 1}),
    "alb.log": ("alb", {"/shop/": 1, "/": 1}),
}  # fmt: skip


def tally_of(
    lines: bytes, text: str = "common", settings: Settings | None = None, zone: str = "UTC"
) -> tuple[dict[int, dict[str, int]], Account]:
    """Add lines up, all in one go."""
    tally = Tally(format_of(text), Names(settings or Settings()), Minutes(ZoneInfo(zone)))
    tally.add(lines)
    return tally.hits(), tally.account


def line(request: str, *, status: int = 200, time: str = "23/Nov/2026:23:00:00 +0000") -> bytes:
    """Return a line of the common format."""
    return f'192.0.2.1 - - [{time}] "{request}" {status} 1\n'.encode()


@pytest.mark.parametrize("name", sorted(COUNTED))
def test_each_server_s_log_is_recognised_and_counted(name: str) -> None:
    """A log's format is seen by its first lines, and its requests count by their canonical paths."""
    report = Run(Settings(), None, Options()).ingest(SAMPLES / name)
    form, expected = COUNTED[name]
    assert (report.format, report.trouble) == (form, "")
    found, _ = tally_of((SAMPLES / name).read_bytes(), form)
    sums: dict[str, int] = {}
    for table in found.values():
        for url, count in table.items():
            sums[url] = sums.get(url, 0) + count
    assert sums == expected
    assert report.account.counted == sum(expected.values())


def test_samples_are_all_there() -> None:
    """Every sample has an expectation."""
    assert {path.name for path in SAMPLES.iterdir()} == set(COUNTED)


def test_lines_fall_into_the_hour_that_their_zone_says() -> None:
    """Times count in UTC, whatever their zone; half-hour zones and the hour's last second included."""
    lines = b"".join((
        line("GET /a HTTP/1.1", time="23/Nov/2026:22:59:59 +0000"),
        line("GET /a HTTP/1.1", time="24/Nov/2026:01:00:00 +0200"),
        line("GET /b HTTP/1.1", time="24/Nov/2026:04:29:59 +0530"),
        line("GET /b HTTP/1.1", time="24/Nov/2026:04:30:00 +0530"),
        line("GET /c HTTP/1.1", time="23/Nov/2026:14:00:00 -0900"),
    ))  # fmt: skip
    assert tally_of(lines)[0] == {HOUR - 1: {"/a": 1, "/b": 1}, HOUR: {"/a": 1, "/b": 1, "/c": 1}}


@pytest.mark.parametrize(
    "time", ["01/Jan/0001:00:00:00 +0100", "31/Dec/9999:23:59:59 -0100", "01/Jan/2107:00:00:00 +0000"]
)
def test_a_time_that_nobody_keeps_is_a_bad_line(time: str) -> None:
    """The ends of the calendar, to which a zone's hours cannot be added, and beyond 2106: bad, and no more."""
    assert tally_of(line("GET /a HTTP/1.1", time=time))[1].bad == {"no time that can be read": 1}


def test_times_without_a_zone_are_in_the_one_given() -> None:
    """HAProxy's times name no zone: UTC, or what --tz says."""
    sample = (SAMPLES / "haproxy.log").read_bytes()
    assert set(tally_of(sample, "haproxy")[0]) == {HOUR}
    assert set(tally_of(sample, "haproxy", zone="America/New_York")[0]) == {HOUR + 5}


def test_garbage_is_kept_out_and_shown() -> None:
    """What is no request is counted by its reason, shown escaped, and in no URL."""
    lines = b"\x00\x1b[31mnot a log\n\n" + line("-") + line("\\x16\\x03") + line("GET no-slash HTTP/1.1")  # fmt: skip
    lines += line("GET / HTTP/1.1", time="31/Feb/2026:00:00:00 +0000") + line("GET /good HTTP/1.1")
    hits, account = tally_of(lines)
    assert hits == {HOUR: {"/good": 1}}
    assert account.lines == 7
    assert account.bad == {
        "not in the format": 1, "no request": 1, "garbage for a request line": 2, "no time that can be read": 1,
    }  # fmt: skip
    assert account.skipped == {"blank": 1}
    assert account.examples[0] == ("not in the format", "\\x00\\x1b[31mnot a log")


def test_what_counts_follows_the_settings() -> None:
    """404s by path, merged slashes, long paths and uncounted paths are as for the middleware."""
    settings = Settings(
        count_unmatched=True, merge_trailing_slash=True, max_path_bytes=20, uncounted_paths=("/health", "/static/*")
    )
    lines = line("GET /gone/ HTTP/1.1", status=404) + line("GET /gone HTTP/1.1") + line(f"GET /{'x' * 20} HTTP/1.1")
    lines += line("GET /static/%61.js HTTP/1.1") + line("GET /health?x HTTP/1.1") + line("GET /health/ HTTP/1.1")
    hits, account = tally_of(lines, settings=settings)
    assert hits == {HOUR: {"/gone": 2, "(oversized)": 1, "/health": 1}}
    assert account.skipped == {"a path that is not counted": 2}


@given(st.text(alphabet="/abl*ivezstaticé%", max_size=12).map(lambda text: "/" + text))
def test_uncounted_paths_are_those_of_the_middleware(path: str) -> None:
    """A path counts here exactly where `CountHits` would count it."""
    settings = Settings(redis_url="unix:///nowhere", uncounted_paths=("/livez", "/static/*", "/a*"))
    counter = HitCounter(settings, LedgerStore(settings))
    try:
        Names(settings).name_of(path.encode(), b"200", is_path=True)
        counted = True
    except NotCountedError:
        counted = False
    assert counted == counter.is_counted(path.encode().decode("latin-1"))


def test_every_chunk_counts_as_line_by_line() -> None:
    """The quick way over whole chunks agrees with a plain model, whatever is among the lines."""
    draw = random.Random(7)
    lines = log_lines(4000).splitlines(keepends=True)
    odd = [
        line('GET /quo\\"te?x HTTP/1.1'),
        line("GET /a%2fb%zz HTTP/1.0"),
        line("/only-a-path"),
        b"/looks-like-a-path\n",
    ]
    odd += [line("GET //double//slash HTTP/1.1"), line("GET /x HTTP/1.1", time="01/Nov/2026:00:59:59 +0545")]
    lines += [draw.choice(odd) for _ in range(400)]
    draw.shuffle(lines)
    together, account = tally_of(b"".join(lines))
    alone: dict[int, dict[str, int]] = {}
    for each in lines:
        for hour, table in tally_of(each)[0].items():
            for url, count in table.items():
                alone.setdefault(hour, {})[url] = alone.setdefault(hour, {}).get(url, 0) + count
    assert together == alone
    assert account.lines == len(lines)
    assert account.lines == account.counted + account.bad.total() + account.skipped.total()


@pytest.mark.parametrize(
    ("text", "sample"),
    [
        ('$host [$time_iso8601] "$request" $status', 'h [2026-11-23T23:00:00+00:00] "GET /a?x HTTP/1.1" 200'),
        ("$msec|$status|$request_method|$request_uri|$host", "1795474800.123|200|GET|/a?x|example.org"),
        ('"$request_uri" ${status} $time_local', '"http://h/a" 200 23/Nov/2026:23:00:00 +0000'),
        ("$time_local $uri $args $status", "23/Nov/2026:23:00:00 +0000 /a x=1 200"),
        ("[$time_local] $request_uri", "[23/Nov/2026:23:00:00 +0000] /a"),
    ],
)  # fmt: skip
def test_formats_of_one_s_own(text: str, sample: str) -> None:
    """A `log_format` of nginx's says where time, target and status are, in any order."""
    assert tally_of(sample.encode() + b"\n", text)[0] == {HOUR: {"/a": 1}}


def test_a_format_that_says_too_little_is_refused() -> None:
    """Without a time, without a request, or with a name that is none: one line, and what to do."""
    for text in ("$request $status", "[$time_local] $status", "comon"):
        with pytest.raises(SettingsError) as found:
            format_of(text)
        assert found.value.hint


def test_a_decoded_path_is_not_decoded_again() -> None:
    """$uri is a path already: a percent sign in it is one."""
    assert tally_of(b'[23/Nov/2026:23:00:00 +0000] "/100%25?" 200\n', '[$time_local] "$uri" $status')[0] == {
        HOUR: {"/100%2525%3F": 1}
    }


@pytest.mark.parametrize(
    ("text", "sample"),
    [
        ("haproxy", 'h: 192.0.2.1:1 [23/Nov/2026:23:00:00.1] f b/s 0/0/0/0/0 200 1 - - ---- 1/1/0/0/0 0/0 "{}"\n'),
        ("haproxy-clf", 'Nov 23 h haproxy[7]: 192.0.2.1 - - [23/Nov/2026:23:00:00 +0000] "{}" 200 1 "" "" 1 2\n'),
    ],
)
def test_the_escapes_of_haproxy_are_undone(text: str, sample: str) -> None:
    """HAProxy writes # and two digits where others write a backslash, which is itself in its logs."""
    requests = ("GET /caf#C3#A9#22?x=#22 HTTP/1.1", "GET /back\\x41\\ HTTP/1.1", "GET /a?b#22 HTTP/1.1")
    counted = {"/caf%C3%A9%22": 1, "/back%5Cx41%5C": 1, "/a": 1}
    assert tally_of("".join(map(sample.format, requests)).encode(), text)[0] == {HOUR: counted}


def test_a_user_s_name_hides_no_request() -> None:
    """Whoever signs in as ` [` or with a whole time is counted: nginx logs any name that a client sends."""
    for name in (" [", " [[] [x", "[23/Nov/2026:22:00:00 +0000] x", " [23/Nov/2026:22:00:00 +0000"):
        sample = line("GET /a HTTP/1.1").replace(b"- - [", b"- %b [" % name.encode())
        assert tally_of(sample)[0] == {HOUR: {"/a": 1}}, name


def test_what_was_never_answered_is_no_bad_line() -> None:
    """Envoy writes dashes for the request where it passes on TCP: a status of 0 says that nobody was answered."""
    hits, account = tally_of(b'[2026-11-23T23:00:00.000Z] "- - -" 0 - - - "-" 9 9 1 - "-"\n', "envoy")
    assert (hits, account.bad, account.skipped) == ({}, {}, {"never answered": 1})


def test_hostile_lines_take_no_longer_than_others() -> None:
    """A megabyte of what the patterns look for is read in one go: this test ends."""
    for piece in (b'"', b"[", b" [", b" [23/Nov/2026:23:00:00 +0000", b'\\"', b"GET /", b" - ", b"/", b"?"):
        _, account = tally_of(piece * (2**20 // len(piece)) + b"\n")
        assert account.lines == 1


def test_json_bytes_that_are_no_utf_8_stay_what_they_are() -> None:
    """A path is bytes: what a server wrote raw counts as it was."""
    text = json.dumps({"ts": 1795474800, "request": {"method": "GET", "uri": "/X"}, "status": 200}).encode()
    assert tally_of(text.replace(b"/X", b"/\xff") + b"\n", "json")[0] == {HOUR: {"/%FF": 1}}
    bad = [b"[1]", b"{", b'{"ts": 1}', b'{"ts": true, "uri": "/", "status": 200}', b"[" * 10**5]
    bad += [b'{"ts": %b, "uri": "/", "status": 200}' % time for time in (b"1e999", b"-1e999", b"NaN", b"9" * 999)]
    _, account = tally_of(b"\n".join(bad) + b"\n", "json")
    assert account.bad == {"not in the format": 9}


def test_json_times_may_be_in_seconds_or_in_parts_of_them() -> None:
    """Caddy writes seconds, milliseconds or nanoseconds, as it is told to."""
    for time in ("1795474800.9", "1795474800999", "1795474800999999", "1795474800999999999"):
        assert tally_of(b'{"ts": %b, "uri": "/a", "status": 200}\n' % time.encode(), "json")[0] == {HOUR: {"/a": 1}}


def test_escapes_are_undone() -> None:
    """Nginx and Apache write bytes that could mislead as escapes."""
    assert unescape(rb"\x22\xC3\xa9\"\\\n") == b'"\xc3\xa9"\\\n'
    assert target_of(b"GET /a b HTTP/1.1") == b"/a b"
    assert target_of(b"GET /old") == b"/old"


def test_the_model_agrees_on_a_long_log(tmp_path: Path) -> None:
    """A dry run over a log counts what the plain model counts."""
    log = log_lines(20_000)
    (tmp_path / "access.log").write_bytes(log)
    report = Run(Settings(), None, Options()).ingest(tmp_path / "access.log")
    expected = naive(log)
    assert report.account.urls is not None
    assert (report.account.counted, len(report.account.urls)) == (sum(expected.values()), len(expected))
