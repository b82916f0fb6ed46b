"""Sections that posting keeps: bringing a ledger to have them, and ending that.

A shard that keeps sections has, for each section, the set of its children with their hits: the
sections just below it, and the URLs that end there. `lua/post.lua` moves them in the step that
books the hits. So a section's total is one look-up, and its children stand in order.

It costs memory and time in posting (docs/reports.md has the prices), so a ledger has it only
where `HITLEDGER_KEEP_SECTIONS` was set as it was made, or `hitledger sections keep` was run.
That goes on while hits are posted: a URL is put into its sections with all the hits that it has,
once, by `lua/fill.lua`; from then on, and for new URLs at once, posting keeps them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from hitledger.connections import server_errors
from hitledger.dispatch import script
from hitledger.entries import fitting
from hitledger.errors import LedgerMismatchError
from hitledger.ledger import LedgerStore, new_generation

FILLED_TOGETHER = 1000
"""URLs that one call puts into their sections at most: some milliseconds of the server."""
MOST_PASSES = 5
KEPT, FILLING, ABSENT = "kept", "filling", "absent"


def states(store: LedgerStore) -> list[tuple[str, str]]:
    """Return each shard's generation of sections and how it has them: "kept", "filling" or "absent"."""
    calls = [(shard, ("HGET", store.totals_key(shard), "sections")) for shard in range(store.identity.shards)]
    return [_parted(str(answer or "")) for answer in store.read(calls)]


def generations(store: LedgerStore) -> list[str] | None:
    """Return each shard's generation where all of them keep their sections; None where they do not."""
    found = states(store)
    return [generation for generation, _ in found] if all(state == KEPT for _, state in found) else None


def keep(store: LedgerStore, progress: Callable[[int], None] = lambda _: None) -> None:
    """Bring a ledger to keep its sections, while hits go on being posted; `progress` is told of URLs put in.

    What was begun and broken off is taken up again. Raises LedgerError.
    """
    with server_errors():
        for shard in range(store.identity.shards):
            generation, state = _parted(store.change_sections(shard, "begin", new_generation()))
            for _ in range(MOST_PASSES):
                if state != FILLING:
                    break
                _fill_all(store, shard, generation, progress)
                generation, state = _parted(store.change_sections(shard, "finish", generation))
            if state != KEPT:
                raise LedgerMismatchError(f"Shard {shard} has {state} sections.", "Somebody else may have ended it.")
            store.sweep_sections(shard)


def drop(store: LedgerStore) -> None:
    """Keep sections no longer, and delete what there is of them. Raises LedgerError."""
    with server_errors():
        for shard in range(store.identity.shards):
            store.change_sections(shard, "drop", "")
            store.sweep_sections(shard)


def fill(store: LedgerStore, shard: int, generation: str, urls: list[str]) -> None:
    """Put URLs of a shard into their sections, those that are not in them yet. Raises redis.RedisError."""
    keys = [store.totals_key(shard), store.set_key(shard), *store.section_keys(shard, generation, urls)]
    script("fill")(store.poster(shard), keys, [store.identity.id, generation, *urls])


def _fill_all(store: LedgerStore, shard: int, generation: str, progress: Callable[[int], None]) -> None:
    # A URL that is there all the while is met at least once; new ones are put in by posting.
    names = (str(name) for name, _ in store.poster(shard).zscan_iter(store.set_key(shard), count=1000))
    while urls := list(islice(names, FILLED_TOGETHER)):
        while urls:
            count = fitting(urls, with_sections=True)
            fill(store, shard, generation, urls[:count])
            progress(count)
            urls = urls[count:]


def _parted(text: str) -> tuple[str, str]:
    generation, _, state = text.partition(" ")
    return generation, state or ABSENT
