"""The service that the storm hits: an embedded Valkey as shipped, a proxy before it, web processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from hitledger.embedded import EmbeddedValkey
from hitledger.serve import answers_http
from hitledger.settings import Settings
from hitledger.supervision import die_with
from tests.ports import free_port
from tests.proxy import Proxy
from tests.support import wait_until

JOURNAL_FILE_BYTES = (65536, 4096, 2**20, 262144)
"""What a web service is started with by turns; the smallest holds some fifty hits."""
HOLD_SECONDS = 2
ANSWER_SECONDS = 0.2
WEB_COMMAND = [sys.executable, "-P", "-m", "hitledger", "web"]


@dataclass
class _Started:
    process: subprocess.Popen[bytes]
    due: float | None = None


class Service:
    """Keeps Valkey and the web processes running, as `hitledger serve` does, and lets them be hurt."""

    def __init__(
        self,
        directory: Path,
        workers: int = 2,
        file_bytes: Sequence[int] = JOURNAL_FILE_BYTES,
        hold_seconds: int = HOLD_SECONDS,
        shards: int = 1,
    ) -> None:
        self.valkey = EmbeddedValkey(directory)
        self.valkey.prepare()
        self._log = (directory / "service.log").open("ab")
        self.proxy = Proxy(self.valkey.socket_path)
        self.settings = Settings(
            redis_url=self.proxy.url,
            data_dir=directory,
            port=free_port(),
            workers=workers,
            journal_hold_seconds=hold_seconds,
            shards=shards,
        )
        self._file_bytes = file_bytes
        self._stopped: set[int] = set()
        self._web_starts = 0
        self._valkey = _Started(self._run(self.valkey.command, self.valkey.directory))
        wait_until(self.valkey.answers)
        self._web = _Started(self._run_web())
        wait_until(self._has_started, seconds=60)

    def _has_started(self) -> bool:
        assert self._web.process.poll() is None, (self.settings.data_dir / "service.log").read_text()[-2000:]
        return answers_http(self.settings)

    def tend(self) -> None:
        """Start again what has ended and is due; to be called every few milliseconds."""
        now = time.monotonic()
        if self._valkey.process.poll() is not None and now >= (self._valkey.due or now):
            self._valkey = _Started(self._run(self.valkey.command, self.valkey.directory))
        if self._web.process.poll() is not None:
            self._web = _Started(self._run_web())

    # What can be done to it; each returns True where it was done

    def kill_worker(self, number: int) -> bool:
        """Kill a web worker; which one, the number says."""
        workers = self.workers()
        return bool(workers) and self._signal(workers[number % len(workers)], signal.SIGKILL)

    def kill_poster(self) -> bool:
        """Kill the process that holds the posting lock now."""
        return self._signal(self.poster(), signal.SIGKILL)

    def kill_web(self) -> bool:
        """Kill the web service's main process; its workers die with it."""
        return self._signal(self._web.process.pid, signal.SIGKILL)

    def kill_valkey(self, seconds: float) -> bool:
        """Kill Valkey; it comes back after so long."""
        if self._valkey.process.poll() is not None:
            return False
        self._valkey.due = time.monotonic() + seconds
        self._stopped.discard(self._valkey.process.pid)
        self._valkey.process.kill()
        self._valkey.process.wait()
        return True

    def stop_valkey(self) -> int:
        """Stop Valkey where it stands; return its pid, 0 where it is not running."""
        pid = self._valkey.process.pid
        return pid if self._valkey.process.poll() is None and self._signal(pid, signal.SIGSTOP) else 0

    def stop_poster(self) -> int:
        """Stop the process that is posting; return its pid, 0 where none was."""
        pid = self.poster()
        return pid if self._signal(pid, signal.SIGSTOP) else 0

    def go_on(self, pid: int) -> None:
        """Let a stopped process go on."""
        if pid in self._stopped:
            self._signal(pid, signal.SIGCONT)

    def command(self, *words: str) -> bool:
        """Send Valkey a command directly; False where it does not take it."""
        return self.ask(*words) is not None

    def ask(self, *words: str) -> str | None:
        """Return Valkey's answer to a command, None where there is none within a moment."""
        once = Retry(NoBackoff(), 0)
        path = str(self.valkey.socket_path)
        try:
            with redis.Redis(
                unix_socket_path=path, socket_timeout=ANSWER_SECONDS, retry=once, decode_responses=True
            ) as client:
                return str(client.execute_command(*words))
        except redis.RedisError:
            return None

    def booked(self) -> int:
        """Return how many hits the ledger holds; less, where it does not answer now."""
        keys = [f"{self.settings.key_prefix}:{{{shard}}}:totals" for shard in range(self.settings.shards or 1)]
        found = [self.ask("HGET", key, "requests") for key in keys]
        return sum(int(text) for text in found if text and text.isdigit())

    def workers(self) -> list[int]:
        """Return the pids of the web workers."""
        pid = self._web.process.pid
        with suppress(OSError):
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    def poster(self) -> int:
        """Return the pid of the process that holds the posting lock; a worker's where none does for 50 ms."""
        until = time.monotonic() + 0.05
        with suppress(OSError):
            inode = f":{(self.settings.journal_dir / 'posting.lock').stat().st_ino} "
            while time.monotonic() < until:
                for line in Path("/proc/locks").read_text().splitlines():
                    words = line.split()
                    if inode in line and words[1] == "FLOCK" and int(words[4]) in self.workers():
                        return int(words[4])
        return next(iter(self.workers()), 0)

    # The end

    def calm(self) -> None:
        """Undo every fault, and wait until Valkey and the web service answer."""
        self.proxy.heal()
        for pid in list(self._stopped):
            self.go_on(pid)

        def is_well() -> bool:
            self.tend()
            return self.valkey.answers() and answers_http(self.settings)

        wait_until(is_well, seconds=60)
        wait_until(lambda: self.command("CONFIG", "SET", "maxmemory", "0"))
        wait_until(lambda: self.command("REPLICAOF", "NO", "ONE"))

    def end_web(self) -> int:
        """End the web service in good order, and return its status."""
        self._web.process.terminate()
        return self._web.process.wait(30)

    def close(self) -> None:
        """End everything."""
        for started in (self._web, self._valkey):
            for number in (signal.SIGCONT, signal.SIGTERM):
                started.process.send_signal(number)
            try:
                started.process.wait(20)
            except subprocess.TimeoutExpired:
                started.process.kill()
                started.process.wait()
        self.proxy.close()
        self._log.close()

    @property
    def environment(self) -> dict[str, str]:
        """What the web processes are started with next."""
        settings = self.settings
        return {
            "HITLEDGER_REDIS_URL": self.proxy.url,
            "HITLEDGER_DATA_DIR": str(settings.data_dir),
            "HITLEDGER_PORT": str(settings.port),
            "HITLEDGER_WORKERS": str(settings.workers),
            "HITLEDGER_SHARDS": str(settings.shards),
            "HITLEDGER_JOURNAL_HOLD_SECONDS": str(settings.journal_hold_seconds),
            "HITLEDGER_JOURNAL_FILE_BYTES": str(self._file_bytes[self._web_starts % len(self._file_bytes)]),
        }

    def _run_web(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self.environment}
        self._web_starts += 1
        return self._run(WEB_COMMAND, Path.cwd(), environment)

    def _run(
        self, command: list[str], directory: Path, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        parent = os.getpid()
        return subprocess.Popen(
            command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
            start_new_session=True, preexec_fn=lambda: die_with(parent),  # noqa: PLW1509 - it makes one system call
        )  # fmt: skip

    def _signal(self, pid: int, number: signal.Signals) -> bool:
        if not pid:
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            self._stopped.discard(pid)
            return False
        if number == signal.SIGSTOP:
            self._stopped.add(pid)
        else:
            self._stopped.discard(pid)
        return True
