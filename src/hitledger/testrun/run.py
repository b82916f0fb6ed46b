"""What a test run is: as its record holds it, and as readers see it."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

STARTING, QUEUED, RUNNING = "starting", "queued", "running"
FINISHED, CANCELLED, FAILED = "finished", "cancelled", "failed"
OPEN = (QUEUED, RUNNING)

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_RUN_ID = re.compile(f"[{_DIGITS}]{{26}}")


@dataclass(frozen=True)
class Part:
    """One part of a run, as its worker last reported it. Times are unix seconds."""

    worker: str
    claim: str
    succeeded: int = 0
    failed: int = 0
    ended: float | None = None

    def encode(self) -> str:
        """Return the text that stands in the run's hash."""
        return f"{self.worker} {self.claim} {self.succeeded} {self.failed}"

    @classmethod
    def decode(cls, text: str, ended: str | None) -> Part:
        """Read what `encode` wrote."""
        worker, claim, succeeded, failed = text.split(" ")
        return cls(worker, claim, int(succeeded), int(failed), float(ended) if ended else None)


@dataclass(frozen=True)
class Run:
    """A test run as readers see it. Times are unix seconds; latencies milliseconds."""

    id: str
    status: str
    requested: int
    succeeded: int
    failed: int
    pool: tuple[str, ...]
    distinct_urls: int
    started_at: float | None
    finished_at: float | None
    latency_ms: Mapping[str, float] | None
    error: str | None

    @property
    def sent(self) -> int:
        """Requests that were sent and have ended, well or not."""
        return self.succeeded + self.failed

    @property
    def ended(self) -> bool:
        """True where nothing about it will change."""
        return self.status not in OPEN

    @property
    def requests_per_second(self) -> float | None:
        """Requests sent in a second of the run, until now or its end; None before it started."""
        if self.started_at is None:
            return None
        seconds = (self.finished_at or time.time()) - self.started_at
        return round(self.sent / max(seconds, 0.001), 1)


def is_run_id(text: str) -> bool:
    """Tell whether a text could be a run's id."""
    return bool(_RUN_ID.fullmatch(text))


def new_run_id(now: float) -> str:
    """Return a ULID, so that ids sort by age: 48 bits of milliseconds, 10 of microseconds, 70 random ones."""
    milliseconds, microseconds = divmod(int(now * 1_000_000), 1000)
    number = milliseconds << 80 | microseconds << 70 | secrets.randbits(70)
    return "".join(_DIGITS[number >> shift & 31] for shift in range(125, -1, -5))


def parts_of(fields: Mapping[str, str]) -> list[Part]:
    """Return the parts of a run that were claimed, from the run's hash."""
    return [
        Part.decode(text, fields.get(f"ended:{name.removeprefix('part:')}"))
        for name, text in fields.items()
        if name.startswith("part:")
    ]


def run_of(run_id: str, fields: Mapping[str, str], distinct: int) -> Run | None:
    """Return a run from its hash and the number of its URLs; None where it has not been opened."""
    status = fields.get("status", STARTING)
    if status == STARTING:
        return None
    parts = parts_of(fields)
    return Run(
        id=run_id,
        status=status,
        requested=int(fields["requested"]),
        succeeded=int(fields.get("succeeded", 0)) + sum(part.succeeded for part in parts),
        failed=int(fields.get("failed", 0)) + sum(part.failed for part in parts),
        pool=tuple(fields["pool"].split(" ")),
        distinct_urls=int(fields.get("distinct", distinct)),
        started_at=_time_of(fields.get("started")),
        finished_at=_time_of(fields.get("finished")),
        latency_ms=json.loads(fields.get("latency", "null")),
        error=fields.get("error") if status == FAILED else None,
    )


def _time_of(text: str | None) -> float | None:
    return float(text) if text else None
