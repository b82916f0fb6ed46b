r"""The formats of logs: how a line says when, what was asked for, and how it was answered.

A text format is written in nginx's own `log_format` syntax, the built-in ones too. It becomes
two patterns over bytes, both without backtracking into what they have passed, so that no line
takes longer than its length asks for:

    lines   one `findall` over a whole chunk gives a tuple a line: time, zone, target and status
            of the lines in the expected shape, or the whole line
    line    one line that is otherwise: escapes, a strange method, no version

Variables that say nothing about a request match up to the text that follows them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

from hitledger.errors import SettingsError
from hitledger.ingest import times
from hitledger.ingest.jsonlines import JsonFormat
from hitledger.ingest.lines import NOT_IN_FORMAT, Format, Request
from hitledger.ingest.targets import NO_ANSWER, NotCountedError, target_of, unescape, unescape_hashes

TEXTS = {
    "common": '$client [$time_local] "$request" $status',
    "haproxy": '$client [$time_local] $frontend $backend $timers $status $bytes $rest "$request"',
    "haproxy-clf": '$syslog haproxy[$process]: $client [$time_local] "$request" $status',
    "envoy": '[$time_iso8601] "$request" $status',
    "alb": '$type $time_iso8601 $elb $client $target $t1 $t2 $t3 $status $target_status $received $sent "$request"',
}
"""The built-in text formats; what follows their last variable is not looked at."""
SAME = {"combined": "common", "nginx": "common", "apache": "common", "traefik": "common", "caddy": "json"}
"""Other names for them: the combined format begins as the common one does, and Traefik's text as well."""

_TIMES = {"time_local": times.LOCAL, "time_iso8601": times.ISO, "msec": times.EPOCH}
_PATH = rb"/[^ ?#\"\\\n]*+"
_SERVER = rb"(?:https?://[^ /?#\"\\\n]++)?+"
_DELIMITED = rb"(?![^\s\"',;|\]\)\}])"
"""No more of a word follows."""
_TARGETS = {
    "request": (rb"[A-Z]++ " + _SERVER, _PATH, rb"[^ \"\\\n]*+ HTTP/\d(?:\.\d)?+"),
    "request_uri": (_SERVER, _PATH, rb"[^ \"\\\n]*+" + _DELIMITED),
    "uri": (b"", rb"/[^ ?#%\"\\\n]*+", _DELIMITED),
}
"""What a line says of its target in the expected shape: what stands before the path, the path, and what behind it."""
_STATUS = rb"(?P<status>\d{3})"
_FOUND = rb"(?:[1235]\d\d|4(?:[1-9]\d|0[0-36-9]))"
"""Answers that count by path whatever the settings: all but 404 and 405."""
_SLOW_STATUS = rb"(?P<status>\d{3}|-?\d|-)"
_NAMED = re.compile(rb"\(\?P<\w+>")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
_NO_STATUS = (b"-", b"0", b"-1", b"000")


class TextFormat:
    """A format in nginx's `log_format` syntax."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        pieces = _pieces(text)
        names = [variable for variable, _ in pieces]
        target = next((each for each in _TARGETS if each in names), "")
        time = next((each for each in _TIMES if each in names), "")
        if not target or not time:
            missing = "$time_local, $time_iso8601 or $msec" if target else "$request, $request_uri or $uri"
            raise SettingsError(f"The format {text[:200]!r} has no {missing}.", "A line must say when, and what.")
        wanted = {target, time, "status"}
        last = max(at for at, variable in enumerate(names) if variable in wanted)
        pieces = pieces[: last + 1]
        self.is_path = target == "uri"
        self.pieces, self.time, self.wanted, self.target = pieces, time, wanted, target
        self.has_hashes = name.startswith("haproxy")
        """Whether bytes are escaped as `#22`, as HAProxy does, and not as `\x22`."""
        before, path, behind = self.shape({time: _TIMES[time], "status": _STATUS})
        self._lines = re.compile(before + rb"(?P<target>" + path + rb")" + behind + rb"[^\n]*+\n|(?P<odd>[^\n]*+\n)")
        patient = {time: _TIMES[time], "status": _SLOW_STATUS}
        before, path, behind = self.shape(patient, patient=True)
        self._line = re.compile(before + rb"(?P<text>" + path + rb")" + behind, re.DOTALL)
        order = ("time", "zone", "target", "status", "odd")
        self._places = [self._lines.groupindex.get(each) for each in order]

    def shape(self, known: dict[str, bytes], *, patient: bool = False) -> tuple[bytes, bytes, bytes]:
        """Return the patterns of what stands before a line's target, of the target, and of what stands behind it.

        `known` has those of the variables that are wanted besides. With patience, the target is all
        that stands in its place, whatever its shape.
        """
        parts, path = [b"", b""], b""
        for at, (variable, text) in enumerate(self.pieces):
            literal = text.encode()
            if variable == self.target:
                before, path, behind = (b"", _up_to(literal), b"") if patient else _TARGETS[variable]
                parts = [parts[0] + before, (b"" if patient or not self.has_hashes else b"(?!#)") + behind]
            elif variable in self.wanted:
                parts[bool(path)] += known[variable] + (_DELIMITED if variable == "status" else b"")
            elif variable:
                parts[bool(path)] += _up_to(literal, self._time_behind(at, known) if patient else b"")
            parts[bool(path)] += re.escape(literal)
        return parts[0], path, parts[1]

    def _time_behind(self, at: int, known: dict[str, bytes]) -> bytes:
        """Return the pattern of a time that follows a piece and of the text behind it; nothing where none follows.

        The user's name, which stands before it and is anyone's to choose, may look like its beginning.
        """
        variable, text = self.pieces[at + 1] if at + 1 < len(self.pieces) else ("", "")
        return _NAMED.sub(rb"(?:", known[variable]) + re.escape(text.encode()) if variable == self.time else b""

    def first_time(self, lines: bytes) -> tuple[bytes, bytes] | None:
        """Return time and zone of the first of these lines; None where it is not in the expected shape."""
        match = self._lines.match(lines)
        return (match["time"], match["zone"]) if match and not match["odd"] and self.time != "msec" else None

    def within_hour(self, lines: bytes, time: bytes, zone: bytes) -> list[bytes]:
        """Return the targets of the lines of one hour, and every other line whole, with its line feed."""
        return _hour_pattern(self, time[:-2], zone).findall(lines)

    def counted(self, lines: bytes) -> Counter[tuple[bytes, ...]]:
        """Return what the lines say, as `Format` has it."""
        found = Counter(self._lines.findall(lines))
        if self._places == [1, 2, 3, 4, 5]:
            return found
        places = self._places
        ordered: Counter[tuple[bytes, ...]] = Counter()
        for words, count in found.items():
            ordered[tuple(words[place - 1] if place else b"" for place in places)] += count
        return ordered

    def read(self, line: bytes) -> Request:
        """Read one line with patience. Raises NotCountedError."""
        match = self._line.match(line)
        if not match:
            raise NotCountedError(NOT_IN_FORMAT)
        words = match.groupdict(b"")
        status = words.get("status", b"")
        if status in _NO_STATUS:
            raise NotCountedError(NO_ANSWER, bad=False)
        text = (unescape_hashes if self.has_hashes else unescape)(words["text"])
        target = target_of(text) if self.target == "request" else text
        return Request(words["time"], words["zone"], target, status, self.is_path)


def _pieces(text: str) -> list[tuple[str, str]]:
    """Return a format as pairs: a variable and the text behind it; what comes before the first has no variable."""
    words = _VARIABLE.split(text)
    pieces = [("", words[0])] if words[0] else []
    pieces += [(words[at] or words[at + 1], words[at + 2]) for at in range(1, len(words), 3)]
    return pieces


@lru_cache(maxsize=64)
def _hour_pattern(form: TextFormat, hour: bytes, zone: bytes) -> re.Pattern[bytes]:
    r"""Return the pattern that gives one word a line: its target, or the whole line with its line feed.

    One word instead of a tuple of five is what makes counting them fast. A line is in the hour
    where its text says so; everything up to the path is optional and taken as a whole or not at
    all, so that only within a line, never at its beginning, can a path be what is found.
    """
    time = re.escape(hour) + rb"\d\d:\d\d(?:[.,]\d++)?+" + re.escape(zone)
    before, path, behind = form.shape({form.time: time, "status": _FOUND})
    in_shape = rb"(?:" + before + rb"(?=" + path + behind + rb"))?+"
    word = rb"((?<=[^\n])" + path + rb"|[^\n]*+\n)"
    return re.compile(in_shape + word + rb"(?:(?<!\n)[^\n]*+\n|(?<=\n))")


def _up_to(literal: bytes, behind: bytes = b"") -> bytes:
    """Return a pattern for everything before a text with `behind` behind it, or before the line's end without one."""
    if not literal:
        return rb"[^\n]*+"
    first, rest = re.escape(literal[:1]), re.escape(literal[1:]) + behind
    if literal.startswith(b'"'):
        return rb'(?:[^"\\\n]++|\\.)*+'  # within quotes, a quote is escaped
    if not rest:
        return rb"[^" + first + rb"\"\n]*+"
    return rb"(?:[^" + first + rb"\n]++|" + first + rb"(?!" + rest + rb"))*+"


def format_of(text: str) -> Format:
    """Return the format of that name, or the one that a `log_format` describes.

    Raises:
        SettingsError: there is none of that name, or it does not say enough.
    """
    name = SAME.get(text, text)
    if name == "json":
        return JsonFormat()
    if name in TEXTS:
        return TextFormat(name, TEXTS[name])
    if "$" not in text:
        known = ", ".join(sorted({*TEXTS, *SAME, "json"}))
        raise SettingsError(f"There is no log format {text[:60]!r}.", f"There are {known}; or use nginx's own syntax.")
    return TextFormat("of its own", text)


def built_in() -> Iterator[Format]:
    """Yield the built-in formats, the most particular first."""
    yield JsonFormat()
    for name in ("alb", "haproxy", "haproxy-clf", "envoy", "common"):
        yield format_of(name)
