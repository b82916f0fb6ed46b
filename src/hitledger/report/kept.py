"""Sections as posting keeps them (`hitledger.tree`): a section's total, and its children, at once.

Each shard has the sections of its own URLs, so what they say is added up here: for a section's
children that is as much work as it has children, however many URLs there are below them.
"""

from __future__ import annotations

from collections.abc import Sequence

from hitledger.dispatch import Command
from hitledger.entries import MOST_SECTIONS, shard_of
from hitledger.ledger import LedgerStore
from hitledger.report.page import Section
from hitledger.report.snapshot import URLS_SHIFT
from hitledger.report.source import walk_set

PIECE_NAMES = 1000


class KeptSections:
    """The sections that every shard of a ledger keeps, each by its generation."""

    def __init__(self, store: LedgerStore, generations: Sequence[str]) -> None:
        self._store = store
        self._generations = generations

    def total(self, section: str) -> Section:
        """Return a section's requests and URLs; one with up to `MOST_SECTIONS` segments has them."""
        parent = section[: section.rfind("/", 0, -1) + 1]
        calls: list[tuple[int, Command]] = []
        for shard, generation in enumerate(self._generations):
            calls.append((shard, ("ZSCORE", self._key(shard, parent), section)))
            calls.append((shard, ("HGET", self._store.sections_key(shard, generation), section)))
            calls.append((shard, ("ZSCORE", self._store.set_key(shard), section)))
        answers = self._store.read(calls)
        urls = sum(int(number or 0) for number in answers[1::3]) + sum(hits is not None for hits in answers[2::3])
        return Section(section, sum(int(float(hits or 0)) for hits in answers[::3]), urls)

    def count_children(self, section: str) -> int:
        """Return how many entries `children` reads."""
        return sum(self._store.read([(shard, ("ZCARD", self._key(shard, section))) for shard in self._shards]))

    def children(self, section: str) -> dict[bytes, int]:
        """Return a section's children: requests, and below `URLS_SHIFT` the number of URLs."""
        found: dict[bytes, int] = {}
        for shard in self._shards:
            here: dict[bytes, int] = {}
            for flat in walk_set(self._store, shard, self._key(shard, section), up=True, raw=True):
                here.update(zip(flat[::2], map(int, flat[1::2]), strict=True))
            for name, hits in here.items():
                found[name] = found.get(name, 0) + hits
        shard = shard_of(section, len(self._generations))
        (own,) = self._store.read([(shard, ("ZSCORE", self._store.set_key(shard), section))])
        if own is not None:
            found[section.encode()] = int(float(own))
        urls = self._urls_below([name for name in found if name.endswith(b"/") and len(name) > len(section)])
        return {name: (hits << URLS_SHIFT) + urls.get(name, 1) for name, hits in found.items()}

    def _urls_below(self, names: list[bytes]) -> dict[bytes, int]:
        """Return the number of URLs of those names that are sections, themselves included where they are URLs."""
        found: dict[bytes, int] = {}
        for start in range(0, len(names), PIECE_NAMES):
            piece = names[start : start + PIECE_NAMES]
            texts = [name.decode("ascii") for name in piece]
            calls: list[tuple[int, Command]] = []
            for shard, generation in enumerate(self._generations):
                calls.append((shard, ("HMGET", self._store.sections_key(shard, generation), *texts)))
                calls.append((shard, ("ZMSCORE", self._store.set_key(shard), *texts)))
            answers = self._store.read(calls)
            for index, name in enumerate(piece):
                below = sum(int(table[index] or 0) for table in answers[::2])
                if below:
                    found[name] = below + sum(table[index] is not None for table in answers[1::2])
        return found

    @property
    def _shards(self) -> range:
        return range(len(self._generations))

    def _key(self, shard: int, section: str) -> str:
        return self._store.sections_key(shard, self._generations[shard], "under", section)


def has_children_kept(section: str) -> bool:
    """Tell whether the children of a section are kept where sections are."""
    return section.endswith("/") and section.count("/") < MOST_SECTIONS


def has_total_kept(section: str) -> bool:
    """Tell whether the total of a section is kept where sections are."""
    return section.endswith("/") and section.count("/") <= MOST_SECTIONS
