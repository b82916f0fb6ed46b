"""A model of a file system: what programs see, what the disk has, and what a power cut leaves.

    data    what every program on the machine reads: the page cache
    disk    what would be there after a power cut, if nothing more had been written

Between two syncs the kernel may write any block back, or none. So a power cut leaves each
block that was not synced in its new state, in its old one, or, where the file system does
not order data before metadata, with whatever stood there before; and the file's size may be
ahead of its data. Names are the same: what was linked, renamed or deleted since the last
sync of the directory may or may not be there. A sync that failed marks its pages clean, as
Linux does: a later sync says yes and does not write them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

ZERO = b"\0"


class Inode:
    """One file: its bytes as programs see them, and as the disk has them."""

    __slots__ = ("data", "disk", "lock", "log", "rotten", "stuck")

    def __init__(self) -> None:
        self.data = bytearray()
        self.disk = b""
        self.lock: OpenFile | None = None
        self.log: Any = None
        """What the oracle knows of it, where it is a journal file."""
        self.stuck: set[int] = set()
        """Blocks that a failed sync has marked clean without writing them."""
        self.rotten = False
        """True where the disk cannot read it any more."""

    def put(self, start: int, data: bytes) -> None:
        """Place bytes; zeros fill what lies between them and the end."""
        if start == len(self.data):
            self.data += data
            return
        self.data.extend(bytes(max(0, start - len(self.data))))
        self.data[start : start + len(data)] = data

    def sync(self, block: int) -> None:
        """Bring the disk up to date, as far as the kernel thinks it is not."""
        if not self.stuck:
            self.disk = bytes(self.data)
            return
        kept = {number: self.disk[number * block : (number + 1) * block] for number in self.stuck}
        disk = bytearray(self.data)
        for number, old in kept.items():
            start, end = number * block, min((number + 1) * block, len(disk))
            disk[start:end] = old.ljust(end - start, ZERO)[: end - start]
        self.disk = bytes(disk)

    def fail_sync(self, block: int) -> None:
        """Forget that the blocks which the disk lacks are to be written."""
        longest = max(len(self.data), len(self.disk))
        for number in range((longest + block - 1) // block):
            part = slice(number * block, (number + 1) * block)
            if self.data[part] != self.disk[part]:
                self.stuck.add(number)

    def touch(self, start: int, end: int, block: int) -> None:
        """Note that a range was written: the kernel will write its blocks back after all."""
        if self.stuck:
            self.stuck.difference_update(range(start // block, (max(start, end - 1)) // block + 1))

    def cut_power(self, block: int, stale: list[bytes], random: Random) -> None:
        """Keep what the disk happens to have of it; in place of new blocks there may be `stale` ones."""
        old, new = self.disk, bytes(self.data)
        if old == new:
            self.lock = None
            return
        low, high = sorted((len(old), len(new)))
        size = random.choice((len(old), len(new), random.randint(low, high)))
        kept = bytearray()
        for start in range(0, size, block):
            end = min(start + block, size)
            before = old[start:end].ljust(end - start, ZERO)
            after = new[start:end].ljust(end - start, ZERO)
            fate = random.random()
            if before == after or fate < 0.45 or start // block in self.stuck:
                kept += before
            elif stale and start >= len(old) and fate < 0.55:
                kept += random.choice(stale)[: end - start].ljust(end - start, ZERO)
            else:
                kept += after
        self.data, self.disk = kept, bytes(kept)
        self.stuck.clear()
        self.lock = None


class OpenFile:
    """An open file description: what descriptors made by `dup` share, a lock among it."""

    __slots__ = ("appends", "inode", "position", "references", "writable")

    def __init__(self, inode: Inode, *, appends: bool, writable: bool) -> None:
        self.inode = inode
        self.appends = appends
        self.writable = writable
        self.references = 1
        self.position = 0

    def release(self) -> None:
        """Drop one descriptor; the last one takes the lock with it."""
        self.references -= 1
        if not self.references and self.inode.lock is self:
            self.inode.lock = None


Change = tuple[str, str, Inode | None]
"""What happened to a name: ("link", name, inode), ("move", old and new name, inode), ("unlink", name, None)."""


@dataclass
class FileSystem:
    """One directory of files, and the disk under it."""

    block: int
    stale_blocks: bool
    names: dict[str, Inode] = field(default_factory=dict)
    durable: dict[str, Inode] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    freed: list[bytes] = field(default_factory=list)
    """What stood in blocks of files that were deleted, and comes back where a new file takes such a block."""
    free: int = 1 << 50
    made: bool = False
    """True once the directory is there."""

    def link(self, name: str, inode: Inode) -> None:
        """Give a file its first name."""
        assert name not in self.names, f"{name} is there already"
        self.names[name] = inode
        self.changes.append(("link", name, inode))

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, in one step."""
        inode = self.names.pop(old)
        self.free += len(self.names[new].data) if new in self.names else 0
        self.names[new] = inode
        self.changes.append(("move", f"{old}\0{new}", inode))

    def unlink(self, name: str) -> None:
        """Delete a name."""
        data = self.names.pop(name).data
        self.free += len(data)
        if self.stale_blocks:
            self.freed += [bytes(data[start : start + self.block]) for start in range(0, len(data), self.block)]
        self.changes.append(("unlink", name, None))

    def sync_directory(self) -> None:
        """Make the names durable."""
        self.durable = dict(self.names)
        self.changes.clear()

    def cut_power(self, random: Random) -> None:
        """Keep what the disk has, of names and of files."""
        ordered = random.random() < 0.5
        kept = random.randint(0, len(self.changes))
        names = dict(self.durable)
        for number, (kind, name, inode) in enumerate(self.changes):
            # A file system with one log of its metadata keeps a beginning of it; others, any part.
            if number < kept if ordered else random.random() < 0.5:
                if kind == "unlink":
                    names.pop(name, None)
                    continue
                old, _, new = name.rpartition("\0")
                names.pop(old, None)
                assert inode
                names[new] = inode
        self.names, self.durable = names, dict(names)
        self.changes.clear()
        for inode in dict.fromkeys(names.values()):
            inode.cut_power(self.block, self.freed, random)

    def copy(self) -> FileSystem:
        """Return a second disk with the same files: what a snapshot of a volume is."""
        twins: dict[int, Inode] = {}
        for inode in self.names.values():
            twin = twins[id(inode)] = Inode()
            twin.data, twin.disk = bytearray(inode.data), bytes(inode.data)
            twin.log = inode.log.copy(twin) if inode.log else None
        names = {name: twins[id(inode)] for name, inode in self.names.items()}
        return FileSystem(self.block, self.stale_blocks, names, dict(names), free=self.free, made=self.made)
