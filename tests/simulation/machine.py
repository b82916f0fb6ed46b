"""A model of a machine: the `Host` that the production code runs on, and the processes that use it.

Every call of the host is a point at which a process may be killed, set aside for others, or
told by the kernel that the call failed. `World` decides when.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hitledger.host import Host
from tests.simulation.filesystem import FileSystem, Inode, OpenFile
from tests.simulation.truth import Hit, JournalLog

if TYPE_CHECKING:
    from tests.simulation.world import World

FULL = (errno.ENOSPC, errno.EDQUOT)
BROKEN = (errno.EIO,)
ERRORS: dict[str, tuple[int, ...]] = {
    "write": FULL + BROKEN, "pwrite": FULL + BROKEN, "pread": BROKEN, "open": (*FULL, errno.EIO, errno.EMFILE),
    "sync": BROKEN, "dup": (errno.EMFILE,), "lock": (errno.ENOLCK,), "files": BROKEN, "rename": FULL + BROKEN,
    "unlink": BROKEN, "sync_directory": BROKEN, "make_directory": FULL,
}  # fmt: skip
"""What the kernel may say to each kind of call."""


class Killed(BaseException):
    """The process that made a call does not exist any more."""


class Violation(AssertionError):  # noqa: N818 - it is one
    """An invariant does not hold."""


class _NoFiles(dict[int, OpenFile]):
    """The descriptors of a dead process: whoever unwinds its stack changes nothing any more."""

    def __missing__(self, fd: int) -> OpenFile:
        raise Killed


class Machine:
    """One machine: its disk, its clock, and what ails it."""

    def __init__(self, world: World, name: str, disk: FileSystem) -> None:
        self.world = world
        self.name = name
        self.disk = disk
        self.directory = Path(f"/{name}/journal")
        self.wall_offset = 0.0
        self.failing = False
        """True while calls fail at random."""
        self.failed = 0
        """How many calls have failed so."""
        self.logs: dict[str, JournalLog] = {}
        """What each journal file took that ever stood on this machine, by name."""
        self._paths: dict[str, Path] = {}

    def path(self, name: str) -> Path:
        """Return a file's path, made once."""
        try:
            return self._paths[name]
        except KeyError:
            path = self._paths[name] = self.directory / name
            return path

    def cut_power(self) -> None:
        """Lose what the disk does not have."""
        before = {id(inode): (inode, bytes(inode.data)) for inode in self.disk.names.values()}
        self.disk.cut_power(self.world.random)
        self._paths.clear()
        # A file that lost its name again is as good as gone.
        after = {id(inode): inode for name, inode in self.disk.names.items() if not name.endswith(".new")}
        for inode in [inode for inode, _ in before.values()] + list(after.values()):
            log = inode.log
            if not log:
                continue
            if id(inode) not in after:
                inode.data.clear()
            gone = log.check(inode.data)
            if id(inode) in before:
                log.spoilt = log.spoilt or inode.data != before[id(inode)][1]
                self.world.judge_power_cut(log, gone)
        for name, inode in self.disk.names.items():
            if name.endswith(".journal"):
                self.world.judge_header(inode.log)


class ModelHost(Host):
    """What one process sees of its machine; every call may be its last."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._world = machine.world
        self._files: dict[int, OpenFile] = {}
        self._next_fd = 3
        self.hit: Hit | None = None
        """The hit that is being journalled."""
        self.taken = 0
        """How often the journal took it."""
        self.hit_seconds: float | None = None
        self.written: list[Inode] = []
        """Journal files of this process."""
        self.refused = 0
        """How many writes into blocks that are there already the disk has refused."""
        self.dead = False
        self.epochs: list[int] = []
        """How often each shard had fallen back when this process last looked at its watermarks."""

    def die(self) -> None:
        """End the process: the kernel closes what it had open."""
        self.dead = True
        files, self._files = self._files, _NoFiles()
        for file in files.values():
            file.release()

    @property
    def can_tell(self) -> bool:
        """True where the process has a journal file of its own in hand, in which to tell of lost hits."""
        return any(file.inode.lock is file and file.inode.log for file in self._files.values())

    # Interruptions

    def step(self, call: str) -> bool:
        """Count one call; return True where it is to do half of its work."""
        world = self._world
        world.fuse -= 1
        return not world.fuse and world.interrupt(self, call)

    @property
    def failing(self) -> bool:
        """True while the machine's calls fail at random."""
        return self._machine.failing

    def fail(self, call: str) -> None:
        """Raise an error that the kernel may give."""
        self._machine.failed += 1
        code = self._world.random.choice(ERRORS[call])
        raise OSError(code, os.strerror(code))

    def fall_short(self) -> None:
        """Note that the kernel takes only a part of a write."""
        self._machine.failed += 1

    def _check(self) -> FileSystem:
        if self.dead:
            raise Killed
        return self._machine.disk

    def _find(self, path: Path) -> Inode:
        inode = self._check().names.get(path.name)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return inode

    # Files

    def write(self, fd: int, data: bytes) -> int:  # type: ignore[override]
        """Append, or write at the file's position; a full disk takes a part or nothing."""
        file = self._files.get(fd) if not self.dead else self._files[fd]
        if not file or not file.writable:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        half = self.step("write")
        inode, disk = file.inode, self._machine.disk
        start, size = len(inode.data) if file.appends else file.position, len(data)
        if half:
            size = self._world.random.randrange(size)
        if size > disk.free:
            size = disk.free if self._world.random.random() < 0.5 else 0
            if not size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        disk.free -= size
        inode.put(start, data if size == len(data) else data[:size])
        file.position = start + size
        if inode.log:
            inode.log.longest = len(inode.data)
        if inode.stuck:
            inode.touch(start, start + size, disk.block)
        if size == len(data) and file.appends and self.hit:
            assert self.hit_seconds is not None
            self.taken += 1
            self._world.journalled(inode, start, data, self.hit, self.hit_seconds)
        if half and self.dead:
            raise Killed
        return size

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read at an offset."""
        self.step("pread")
        if not self.dead and fd not in self._files:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        inode = self._files[fd].inode
        if inode.rotten:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return bytes(inode.data[offset : offset + size])

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:  # type: ignore[override]
        """Write at an offset; what is there already needs no room."""
        try:
            self.step("pwrite")
        except OSError:
            self.refused += 1
            raise
        file, disk = self._files[fd], self._machine.disk
        if not file.writable:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        inode = file.inode
        if file.appends:
            offset = len(inode.data)  # Linux does so, whatever POSIX says
        end = offset + len(data)
        more = max(0, end - len(inode.data))
        if more > disk.free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        disk.free -= more
        inode.put(offset, data)
        inode.touch(offset, end, disk.block)
        if inode.log:
            inode.log.most_told = max(inode.log.most_told, inode.log.lost)
        return len(data)

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:  # type: ignore[override]
        """Open or make a file."""
        self.step("open")
        disk = self._check()
        inode = disk.names.get(path.name)
        if inode is None:
            if not flags & os.O_CREAT or not disk.made:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            if not disk.free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            assert mode == 0o600, "a journal is private"
            inode = Inode()
            disk.link(path.name, inode)
            if flags & os.O_EXCL:
                inode.log = JournalLog(inode)
                self.written.append(inode)
        elif flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        if flags & os.O_TRUNC:
            disk.free += len(inode.data)
            inode.data.clear()
        writable = bool(flags & (os.O_WRONLY | os.O_RDWR))
        return self._add(OpenFile(inode, appends=bool(flags & os.O_APPEND), writable=writable))

    def _add(self, file: OpenFile) -> int:
        fd = self._next_fd
        self._next_fd += 1
        self._files[fd] = file
        return fd

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        self.step("close")
        file = self._files[fd]
        del self._files[fd]
        file.release()

    def dup(self, fd: int) -> int:
        """Make a second descriptor of one open file."""
        self.step("dup")
        file = self._files[fd]
        file.references += 1
        return self._add(file)

    def fsync(self, fd: int) -> None:  # type: ignore[override]
        """Bring a file's bytes to the disk."""
        inode = self._files[fd].inode
        try:
            self.step("sync")
            if inode.rotten:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        except OSError:
            inode.fail_sync(self._machine.disk.block)
            if inode.log:
                inode.log.doubtful = True
            raise
        if not self.dead:
            inode.sync(self._machine.disk.block)

    fdatasync = fsync  # type: ignore[assignment]

    def size(self, fd: int) -> int:
        """Return a file's size."""
        self.step("size")
        return len(self._files[fd].inode.data)

    def is_named(self, fd: int, path: Path) -> bool:
        """Tell whether a file still has its name."""
        self.step("size")
        return self._machine.disk.names.get(path.name) is self._files[fd].inode

    def lock(self, fd: int) -> bool:
        """Take the lock of an open file, or not."""
        self.step("lock")
        file = self._files[fd]
        if file.inode.lock not in (None, file):
            return False
        file.inode.lock = file
        return True

    def unlock(self, fd: int) -> None:
        """Give the lock back."""
        self.step("unlock")
        file = self._files[fd]
        if file.inode.lock is file:
            file.inode.lock = None

    # Names

    def make_directory(self, directory: Path) -> None:
        """Make the directory; durable when it returns."""
        self.step("make_directory")
        assert directory == self._machine.directory
        disk = self._check()
        if not disk.made and not disk.free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        disk.made = True

    def files(self, directory: Path, suffix: str) -> list[tuple[Path, int]]:
        """List files by name."""
        self.step("files")
        assert directory == self._machine.directory
        path = self._machine.path
        names = self._check().names
        return [(path(name), len(names[name].data)) for name in sorted(names) if name.endswith(suffix)]

    def names(self, directory: Path, suffix: str) -> set[str]:
        """List files' names."""
        return {path.name for path, _ in self.files(directory, suffix)}

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file; one that has the new name goes."""
        self.step("rename")
        inode = self._find(old)
        if new.name.endswith(".journal") and inode.log:
            if new.name in self._machine.disk.names:
                raise Violation(f"{new.name} was overwritten by another file")
            inode.log.name = new.stem
            self._machine.logs[new.stem] = inode.log
        self._machine.disk.rename(old.name, new.name)
        if new.name.endswith(".quarantined") and inode.log:
            self._world.judge_quarantine(inode.log, fell_back=self.epochs != self._world.ledger.epochs)

    def unlink(self, path: Path) -> None:
        """Delete a file."""
        inode = self._check().names.get(path.name)
        if path.name.endswith(".journal") and inode and inode.log:
            # Now is when it was decided: who stands still within the call has asked all there is to ask.
            self._world.judge_decision(inode.log)
        self.step("unlink")
        disk = self._check()
        inode = disk.names.get(path.name)
        if inode is None:
            return
        if path.name.endswith(".journal") and inode.log:
            self._world.note_deletion(self._machine, inode.log)
        disk.unlink(path.name)

    def sync_directory(self, directory: Path) -> None:
        """Bring the names to the disk."""
        self.step("sync_directory")
        assert directory == self._machine.directory
        self._check().sync_directory()

    # Clocks and random bits

    def now(self) -> float:
        """Return the wall clock's time, which may be anything."""
        now = self._world.clock + self._machine.wall_offset
        task = self._world.current
        if self.hit_seconds is None and (task is None or task.role == "hit"):
            self.hit_seconds = now
        return now

    def monotonic(self) -> float:
        """Return the time that only goes forward."""
        return self._world.clock

    def sleep(self, seconds: float) -> None:
        """Let time pass, and others work."""
        self._world.sleep(self, seconds)

    def random_hex(self, count: int) -> str:
        """Return random bits of the seed's own."""
        return self._world.random.randbytes(count).hex()
