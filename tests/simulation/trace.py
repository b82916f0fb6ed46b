"""Printing what happens in a world: each event, each call that changes a file, each batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from hitledger.entries import Batch, Outcome
from tests.simulation.ledger import ModelStore, Shard
from tests.simulation.machine import ModelHost
from tests.simulation.schedule import EVENTS, Schedule

CALLS = ("open", "write", "pwrite", "rename", "unlink", "fsync", "fdatasync", "sync_directory")
ROUTINE = ("hit", "tick", "read", "go_on", "spawn", "replicate", "arrive")


@contextmanager
def traced() -> Iterator[None]:
    """Print all that happens within."""
    with ExitStack() as stack:
        for name in CALLS:
            stack.enter_context(patch.object(ModelHost, name, _told(getattr(ModelHost, name), name, _host_words)))
        stack.enter_context(patch.object(Shard, "post", _told(Shard.post, "post", _batch_words)))
        stack.enter_context(patch.object(ModelStore, "confirm", _told(ModelStore.confirm, "confirm", _plain_words)))
        for event in EVENTS:
            if (name := event.happen.__name__) not in ROUTINE:
                stack.enter_context(patch.object(Schedule, name, _told(event.happen, name, _event_words)))
        yield


def _told(function: Callable[..., Any], name: str, words: Callable[..., str]) -> Callable[..., Any]:
    def told(self: Any, *args: Any, **options: Any) -> Any:
        try:
            result = function(self, *args, **options)
        except BaseException as error:
            print(f"{words(self, args)} {name} -> {error!r}")  # noqa: T201
            raise
        shown = result.word if isinstance(result, Outcome) else result
        print(f"{words(self, args)} {name} -> {shown}")  # noqa: T201
        return result

    return told


def _host_words(host: ModelHost, args: tuple[Any, ...]) -> str:
    target = args[0]
    file = None if host.dead or not isinstance(target, int) else host._files.get(target)
    names = [name for name, inode in host._machine.disk.names.items() if file and inode is file.inode]
    shown = names[0] if names else getattr(target, "name", target)
    data = f" {bytes(args[1])[:60]!r}" if len(args) > 1 and isinstance(args[1], bytes) else ""
    return f"    {host._machine.name} process {id(host) % 10007}: {shown}{data}"


def _batch_words(shard: Shard, args: tuple[Any, ...]) -> str:
    batch: Batch = args[1]
    before = batch.expected.encode() if batch.expected else "nothing"
    hits = sum(group.total for group in batch.hits.values())
    return f"    shard {shard.number}: {batch.journal} from {before} to {batch.wanted.encode()}, {hits} hits,"


def _plain_words(store: ModelStore, args: tuple[Any, ...]) -> str:
    return f"    process {id(store._host) % 10007}: {args[0]}"


def _event_words(schedule: Schedule, _: tuple[Any, ...]) -> str:
    return f"{schedule.world.clock:.3f}"
