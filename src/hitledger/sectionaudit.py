"""The audit of sections that posting keeps (`hitledger.tree`): they say what the URLs in them say.

Three things are checked of a shard, on a live system, without holding anything up. Each URL has
in its own section the hits that it has in all, both read at one moment. What a section has above
it is what its children add up to. And its number of URLs is that of its children.

Hits go on arriving meanwhile: a section's children are read in chunks between two readings of
what it must add up to, and their sum must lie between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hitledger.connections import server_errors
from hitledger.dispatch import Command
from hitledger.entries import MOST_SECTIONS, path_of
from hitledger.ledger import LedgerStore
from hitledger.tree import KEPT, states

LOOKED_AT_TOGETHER = 200
"""URLs or children of which a few look-ups are made in one go: about a millisecond of the server."""
MOST_TRIES = 3
MOST_NAMED = 20
"""Differences that are named; a ledger whose sections are wrong throughout has as many as it has URLs."""


@dataclass(frozen=True)
class SectionsAudit:
    """What one shard keeps of sections, and what of it does not agree: a line each, the first ones."""

    shard: int
    state: str
    """`kept`, `filling` (it is being brought to that; nothing is checked yet) or `absent`."""
    sections: int = 0
    urls: int = 0
    wrong: tuple[str, ...] = ()
    wrong_in_all: int = 0

    def differences(self) -> Iterator[str]:
        """Yield a line for each that is named, and one for the others."""
        for line in self.wrong:
            yield f"shard {self.shard}: {line}"
        if self.wrong_in_all > len(self.wrong):
            yield f"shard {self.shard}: {self.wrong_in_all - len(self.wrong):,} more differences in its sections"


def audit_sections(store: LedgerStore) -> list[SectionsAudit]:
    """Audit what each shard keeps of sections. Raises LedgerError."""
    found = []
    for shard, (generation, state) in enumerate(states(store)):
        if state != KEPT:
            found.append(SectionsAudit(shard, state))
            continue
        with server_errors():
            found.append(_Auditor(store, shard, generation).audit())
    return found


class _Auditor:
    """Audits one shard's sections of one generation."""

    def __init__(self, store: LedgerStore, shard: int, generation: str) -> None:
        self._store = store
        self._shard = shard
        self._client = store.reader(shard)
        self._all = store.set_key(shard)
        self._numbers = store.sections_key(shard, generation)
        self._generation = generation

    def audit(self) -> SectionsAudit:
        wrong: list[str] = []
        wrong_in_all, counted = 0, {"sections": 0, "urls": 0}
        for kind, lines in (("urls", self._urls()), ("sections", self._sections())):
            for line in lines:
                counted[kind] += 1
                if line:
                    wrong_in_all += 1
                    wrong += [line] if len(wrong) < MOST_NAMED else []
        if states(self._store)[self._shard] != (self._generation, KEPT):
            return SectionsAudit(self._shard, "changed meanwhile")
        return SectionsAudit(self._shard, KEPT, **counted, wrong=tuple(wrong), wrong_in_all=wrong_in_all)

    def _urls(self) -> Iterator[str]:
        """Yield for each URL what is wrong with it, or nothing."""
        names = (str(name) for name, _ in self._client.zscan_iter(self._all, count=1000))
        while urls := list(islice(names, LOOKED_AT_TOGETHER)):
            by_section: dict[str, list[str]] = {}
            for url in urls:
                path = path_of(url)
                if len(path) <= MOST_SECTIONS:  # of deeper ones only the sections are kept
                    by_section.setdefault(path[-1], []).append(url)
            calls: list[Command] = []
            for section, here in by_section.items():
                calls += [
                    ("ZMSCORE", self._all, *here),
                    ("ZMSCORE", self._children(section), *here),
                    ("HMGET", self._numbers, *here),
                ]
            answers = iter(self._at_one_moment(calls))
            for here, hits, kept, numbers in zip(by_section.values(), answers, answers, answers, strict=True):
                for url, in_all, in_section, number in zip(here, hits, kept, numbers, strict=True):
                    # One that is a section, too, stands there with all below it.
                    fits = _whole(in_all) == _whole(in_section) or number is not None
                    yield "" if fits else _line(f"its section has {url} with", in_section, "and all URLs with", in_all)
            yield from [""] * (len(urls) - sum(map(len, by_section.values())))

    def _sections(self) -> Iterator[str]:
        """Yield for each section what is wrong with it, or nothing."""
        for name, _ in self._client.hscan_iter(self._numbers, count=1000):
            yield self._section(str(name))

    def _section(self, section: str) -> str:
        if section.count("/") >= MOST_SECTIONS:
            return ""  # its children are not kept
        for _ in range(MOST_TRIES):
            hits_before, urls_before = self._head(section)
            hits, urls = self._added_up(section)
            hits_after, urls_after = self._head(section)
            hits_fit, urls_fit = hits_before <= hits <= hits_after, urls_before <= urls <= urls_after
            if hits_fit and urls_fit:
                return ""
        named = section or "the root"
        if not hits_fit:
            return _line(f"the section {named} has", hits_after, "and its children add up to", hits)
        return _line(f"the section {named} has a number of URLs of", urls_after, "and its children of", urls)

    def _head(self, section: str) -> tuple[int, int]:
        """Return the hits and URLs that a section has, as what is above it and the numbers say, at one moment."""
        if not section:
            totals, urls = self._at_one_moment([("HGETALL", self._store.totals_key(self._shard)), ("ZCARD", self._all)])
            lines = sum(int(hits) for name, hits in totals.items() if name.startswith("("))
            return int(totals.get("requests", 0)) - lines, urls
        parent = section[: section.rfind("/", 0, -1) + 1]
        calls: list[Command] = [
            ("ZSCORE", self._children(parent), section),
            ("ZSCORE", self._all, section),
            ("HGET", self._numbers, section),
        ]
        hits, own, urls = self._at_one_moment(calls)
        return _whole(hits) - _whole(own), _whole(urls)

    def _added_up(self, section: str) -> tuple[int, int]:
        """Return the hits and the number of URLs that a section's children have together."""
        children = self._client.zscan_iter(self._children(section), count=1000)
        hits = urls = 0
        while piece := dict(islice(children, LOOKED_AT_TOGETHER)):
            names = [str(name) for name in piece]
            hits += sum(map(int, piece.values()))
            numbers, own = self._at_one_moment([("HMGET", self._numbers, *names), ("ZMSCORE", self._all, *names)])
            urls += sum(map(_whole, numbers)) + sum(each is not None for each in own)
        return hits, urls

    def _children(self, section: str) -> str:
        return self._store.sections_key(self._shard, self._generation, "under", section)

    def _at_one_moment(self, calls: list[Command]) -> list[Any]:
        answers = self._store.read_at_one_moment([(self._shard, call) for call in calls])
        assert answers is not None  # a shard is on one server
        return answers


def _whole(answer: Any) -> int:
    return int(float(answer or 0))


def _line(what: str, number: Any, other: str, other_number: Any) -> str:
    one, two = _whole(number), _whole(other_number)
    return f"{what} {one:,} {other} {two:,}: {one - two:+,}"
