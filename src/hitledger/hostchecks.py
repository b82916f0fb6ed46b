"""The checks of this host: what the journal's guarantee leans on.

The journal needs a local file system: `O_APPEND` and `flock` are emulated, or left out, by
network file systems and by many that run in user space.
"""

from __future__ import annotations

import ctypes
import os
import resource
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hitledger.findings import FAIL, OK, UNKNOWN, WARN, Finding
from hitledger.host import Host
from hitledger.settings import Settings

# From statfs(2).
REFUSED = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x65735546: "FUSE",
    0x5346414F: "AFS",
    0x0BD00BD0: "Lustre",
    0x00C36400: "Ceph",
}
SHORT_LIVED = {
    0x01021994: "tmpfs: it is gone when the machine restarts",
    0x858458F6: "ramfs: it is gone when the machine restarts",
    0x794C7630: "a container's own layer: it is gone with the container",
    0x01021997: "9p, which belongs to another machine",
}
KNOWN = {0xEF53: "ext4", 0x58465342: "XFS", 0x9123683E: "Btrfs", 0x2FC12FC1: "ZFS", 0xF2F52010: "F2FS"}

EARLIEST = 1_735_689_600.0
"""2025 began: no clock that is set shows less."""
FEWEST_DESCRIPTORS = 1024
FEWEST_INODES = 1000


def check_file_system(settings: Settings) -> Finding:
    """See that the journal is on a file system whose appends and locks can be relied on."""
    magic = file_system_magic(nearest(settings.journal_dir))
    remedy = "Set HITLEDGER_DATA_DIR to a folder on a local disk or a mounted volume."
    if magic is None:
        return Finding("journal file system", UNKNOWN, "This system does not tell what the journal is on.")
    if magic in REFUSED:
        what = f"The journal is on {REFUSED[magic]}, where hits of several processes may overwrite each other."
        return Finding("journal file system", FAIL, what, remedy)
    if magic in SHORT_LIVED:
        return Finding("journal file system", WARN, f"The journal is on {SHORT_LIVED[magic]}.", remedy)
    return Finding("journal file system", OK, f"The journal is on {KNOWN.get(magic, 'a local file system')}.")


def check_permissions(settings: Settings) -> Finding:
    """See that the journal can be written, and by nobody else be read: paths may hold secrets."""
    folder = nearest(settings.journal_dir)
    if not os.access(folder, os.W_OK | os.X_OK):
        remedy = "Set HITLEDGER_DATA_DIR to a folder that you may write to."
        return Finding("journal permissions", FAIL, "The journal's folder may not be written to.", remedy)
    status = folder.stat()
    if folder == settings.journal_dir and (status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077):
        remedy = "Give it to the user that the service runs as, with mode 700."
        return Finding("journal permissions", WARN, "Other users may see the paths that were requested.", remedy)
    return Finding("journal permissions", OK, "Only this user may read and write the journal.")


def check_space(settings: Settings) -> Finding:
    """See that the journal may grow to its cap while the ledger is away."""
    disk = os.statvfs(nearest(settings.journal_dir))
    free = disk.f_bavail * disk.f_frsize
    held = sum(size for _, size in Host().files(settings.journal_dir, ""))
    left = max(0, settings.journal_cap_bytes - held)
    remedy = "Make room, or lower HITLEDGER_JOURNAL_CAP_BYTES to what you can spare."
    if free < settings.journal_file_bytes or (disk.f_files > 0 and disk.f_favail < FEWEST_INODES):
        return Finding("journal space", FAIL, f"The journal's disk is nearly full: {_size(free)} are free.", remedy)
    if free < left:
        what = f"{_size(free)} are free; the journal may need {_size(left)} more while the ledger is away."
        return Finding("journal space", WARN, what, remedy)
    return Finding("journal space", OK, f"{_size(free)} are free, and the journal may grow by {_size(left)}.")


def check_clock(settings: Settings) -> Finding:
    """See that the clock is set and that time passes: hits belong to the hour that it shows."""
    del settings
    now = time.time()
    steps = [time.monotonic() for _ in range(100)]
    if now < EARLIEST:
        shown = time.strftime("%Y-%m-%d", time.gmtime(now))
        return Finding("clock", FAIL, f"The clock is not set: it shows {shown}.", "Set it, with NTP best.")
    if steps != sorted(steps):
        return Finding("clock", FAIL, "The monotonic clock runs backwards.", "Have this machine looked at.")
    return Finding("clock", OK, f"The clock shows {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(now))}.")


def check_descriptors(settings: Settings) -> Finding:
    """See that a process may open enough connections and files."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < max(FEWEST_DESCRIPTORS, 4 * settings.threads):
        return Finding("descriptors", WARN, f"A process may open {most} files.", "Raise it: ulimit -n 65536.")
    return Finding("descriptors", OK, "A process may open enough files and connections.")


AT_START: tuple[Callable[[Settings], Finding], ...] = (check_file_system, check_permissions, check_clock)
"""The ones whose failure stops the start."""
LATER: tuple[Callable[[Settings], Finding], ...] = (check_space, check_descriptors)


def host_findings(settings: Settings, checks: tuple[Callable[[Settings], Finding], ...]) -> list[Finding]:
    """Run checks of this host; one that the system does not allow is unknown."""
    found = []
    for check in checks:
        try:
            finding = check(settings)
        except OSError as error:
            name = check.__name__.removeprefix("check_").replace("_", " ")
            finding = Finding(name, UNKNOWN, f"It could not be looked at: {error.strerror}.")
        is_journal = finding.check.startswith("journal")
        found.append(replace(finding, subject=str(settings.journal_dir.absolute()) if is_journal else "this host"))
    return found


def nearest(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(each for each in (folder, *folder.absolute().parents) if each.exists())


def file_system_magic(folder: Path) -> int | None:
    """Return the number by which statfs(2) names a file system; None where there is none, as on macOS."""
    if not sys.platform.startswith("linux"):
        return None
    answer = ctypes.create_string_buffer(512)
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(folder), answer) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return ctypes.c_long.from_buffer(answer).value & 0xFFFFFFFF


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
