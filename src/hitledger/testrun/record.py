"""What is known of test runs, in the ledger's server, for as long as it is worth knowing.

Keys; the braces put them all in one hash slot, that of the ledger's shard 0:

    <prefix>:runs:{0}               sorted set  run id -> when it was asked for (unix seconds)
    <prefix>:runs:{0}:open          sorted set  the same for those that have not ended
    <prefix>:runs:{0}:ended         hash        status -> runs that ended so; requests:succeeded
                                                and requests:failed: what they sent
    <prefix>:run:{0}:<id>           hash        status, requested, parts, pool, created; started,
                                                finished, error; stop: the status to end with;
                                                suspected: since when a worker seems lost;
                                                while it runs, for each part k
                                                part:<k>: worker, claim, succeeded, failed
                                                ended:<k>: when; at the end their sums,
                                                distinct and latency
    <prefix>:run:{0}:<id>:urls      set         the paths requested so far
    <prefix>:run:{0}:<id>:latencies hash        part -> its histogram, encoded
    <prefix>:run:{0}:<id>:end       stream      one entry when the run has ended

Guarantees: a part is claimed once (`lua/run_claim.lua`) and never run again. A run ends
once, as soon as somebody looks at it and finds its parts ended, or the worker of one of
them gone. Everything expires, but for the sums.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hitledger.connections import server_errors
from hitledger.dispatch import script
from hitledger.ledger import LedgerStore
from hitledger.testrun.latency import merged_summary
from hitledger.testrun.run import (
    FAILED,
    FINISHED,
    OPEN,
    STARTING,
    Part,
    Run,
    is_run_id,
    new_run_id,
    parts_of,
    run_of,
)
from hitledger.testrun.workers import MARK_SECONDS, WorkerMarks

log = logging.getLogger("hitledger.testrun")

KEPT_SECONDS = 7 * 86400
LISTED = 1000
"""Runs that are listed; older ones can still be read by their id."""
MOST_OPEN = 10_000
"""Runs that may wait and run at once: they are kept in memory, by the ledger's server."""
SWEPT = 100
"""Runs that one sweep looks at, the oldest first: those are the ones whose turn it is."""
STARTING_SECONDS = 30
"""A run whose tasks could not all be queued is forgotten after so long, whatever went wrong."""
END_KEPT_SECONDS = 60
QUEUE_SECONDS = 86400
"""A run that no worker takes within a day is not begun any more."""
SUSPECT_SECONDS = 2.0
"""A worker without a mark is lost when it still has none after so long: when the ledger comes back from an outage
in which all marks expired, those that are alive are given the time to say so."""
PART_REQUESTS = 5000
"""About a second's work: small enough to share, large enough that a task's own cost is nothing."""
MOST_PARTS = 200

LOST = f"A worker was lost in mid-run, or out of touch with the ledger for over {MARK_SECONDS} seconds."
NOT_TAKEN = "No worker took it within a day."


class RunRecords:
    """The records of all test runs. Every method raises LedgerError."""

    def __init__(self, store: LedgerStore, workers: WorkerMarks) -> None:
        self._store = store
        self._workers = workers
        self._listed = store.key("runs", "{0}")
        self._open = store.key("runs", "{0}", "open")
        self._ended = store.key("runs", "{0}", "ended")
        self._run = store.key("run", "{0}", "")

    @property
    def _client(self) -> Any:
        # redis-py's annotations allow for bytes and texts everywhere; this client gives texts.
        return self._store.reader(0)

    # Starting

    def count_open(self) -> int:
        """Return how many runs have not ended."""
        with server_errors():
            return int(self._client.zcard(self._open))

    def count_ended(self) -> dict[str, int]:
        """Return how many runs ended with each status since the first one, and `requests:succeeded` and `:failed`."""
        with server_errors():
            return {name: int(count) for name, count in self._client.hgetall(self._ended).items()}

    def create(self, requested: int, pool: Sequence[str]) -> tuple[str, int]:
        """Write a new run down, not begun and not listed yet; return its id and its number of parts.

        It is forgotten within `STARTING_SECONDS` unless `open` follows.
        """
        now = time.time()
        run_id = new_run_id(now)
        parts = min(-(-requested // PART_REQUESTS), MOST_PARTS)
        fields: dict[str, str | int] = {
            "status": STARTING,
            "requested": requested,
            "parts": parts,
            "pool": " ".join(pool),
            "created": f"{now:.6f}",
        }
        with server_errors():
            pipeline = self._client.pipeline(transaction=True)
            pipeline.hset(self._keys(run_id)[0], mapping=fields)
            pipeline.expire(self._keys(run_id)[0], STARTING_SECONDS)
            pipeline.execute()
        return run_id, parts

    def open(self, run_id: str) -> bool:
        """Let a run begin; False where its record has expired meanwhile."""
        now = time.time()
        with server_errors():
            # Listed first: an id in a list whose run is not there is passed over by every reader.
            pipeline = self._client.pipeline(transaction=False)
            pipeline.zadd(self._listed, {run_id: now})
            pipeline.zremrangebyrank(self._listed, 0, -LISTED - 1)
            pipeline.expire(self._listed, KEPT_SECONDS)
            pipeline.zadd(self._open, {run_id: now})
            pipeline.execute()
            return bool(script("run_open")(self._client, self._keys(run_id)[:1], [KEPT_SECONDS]))

    def discard(self, run_id: str) -> None:
        """Forget a run that could not be started."""
        with server_errors():
            self._client.delete(self._keys(run_id)[0])

    # Running

    def claim(self, run_id: str, part: int, claim: Part) -> str:
        """Ask for one part of a run: `claimed`, `refused`, or `starting`: ask again."""
        arguments: list[str | int] = [part, claim.encode(), f"{time.time():.6f}"]
        with server_errors():
            return str(script("run_claim")(self._client, self._keys(run_id)[:1], arguments))

    def share(self, run_id: str, part: int) -> tuple[list[str], int]:
        """Return the pool that a part draws from, and how many requests it sends."""
        with server_errors():
            pool, requested, parts = self._client.hmget(self._keys(run_id)[0], "pool", "requested", "parts")
        if pool is None or requested is None or parts is None:
            return [], 0
        each, rest = divmod(int(requested), int(parts))
        return pool.split(" "), each + (part < rest)

    def report(self, run_id: str, part: int, state: Part, paths: Sequence[str], latencies: str = "") -> bool:
        """Write down how far a part is, with the paths it has requested; tell whether it shall go on."""
        ended = f"{state.ended:.6f}" if state.ended else ""
        arguments: list[str | int] = [part, state.encode(), ended, latencies, KEPT_SECONDS, *paths]
        with server_errors():
            return script("run_report")(self._client, self._keys(run_id)[:3], arguments) == "go"

    def stop(self, run_id: str, status: str, error: str = "") -> None:
        """Have a run end early, with that status; one that has ended stays as it is."""
        with server_errors():
            script("run_stop")(self._client, self._keys(run_id)[:1], [status, error])

    # Reading

    def read(self, run_id: str) -> Run | None:
        """Return a run, ended if it is time to; None where there is none."""
        if not is_run_id(run_id):
            return None
        found = self._read([run_id])
        return found[0] if found else None

    def newest(self, limit: int) -> list[Run]:
        """Return the runs that were asked for last, newest first."""
        with server_errors():
            return self._read(self._client.zrange(self._listed, 0, limit - 1, desc=True))

    def wait(self, run_id: str, milliseconds: int) -> bool:
        """Wait so long for a run's end, less than the server's time-out; tell whether it has come."""
        with server_errors():
            return bool(self._client.xread({self._keys(run_id)[3]: "0"}, count=1, block=milliseconds))

    def sweep(self) -> dict[str, list[int]]:
        """End the runs whose time has come; return the others' parts that no task has claimed."""
        unclaimed = {}
        with server_errors():
            ids = self._client.zrange(self._open, 0, SWEPT - 1)
        for run_id, (fields, _) in zip(ids, self._fields(ids), strict=True):
            if fields.get("status") == STARTING:
                continue
            settled, _ = self._settled(run_id, fields, 0)
            if settled.get("status") not in OPEN:
                self._close(run_id)
            elif "stop" not in settled:
                unclaimed[run_id] = [part for part in range(int(settled["parts"])) if f"part:{part}" not in settled]
        return {run_id: parts for run_id, parts in unclaimed.items() if parts}

    def _read(self, ids: Sequence[str]) -> list[Run]:
        found = zip(ids, self._fields(ids), strict=True)
        runs = (run_of(run_id, *self._settled(run_id, fields, distinct)) for run_id, (fields, distinct) in found)
        return [run for run in runs if run is not None]

    def _fields(self, ids: Sequence[str]) -> list[tuple[dict[str, str], int]]:
        with server_errors():
            pipeline = self._client.pipeline(transaction=False)
            for run_id in ids:
                pipeline.hgetall(self._keys(run_id)[0])
                pipeline.scard(self._keys(run_id)[1])
            answers = pipeline.execute()
        return list(zip(answers[::2], answers[1::2], strict=True))

    # Ending

    def _settled(self, run_id: str, fields: dict[str, str], distinct: int) -> tuple[dict[str, str], int]:
        """Return a run's fields after it was stopped and ended, if it is time to."""
        while fields.get("status") in OPEN and self._settle(run_id, fields):
            ((fields, distinct),) = self._fields([run_id])
        return fields, distinct

    def _settle(self, run_id: str, fields: Mapping[str, str]) -> bool:
        """Stop the run if its worker is lost, or end it if nobody works on it; tell whether it was either.

        A run that is stopped here has to be looked at again before it is ended: another
        worker may have claimed a part just before the stop.
        """
        parts = parts_of(fields)
        stop = fields.get("stop")
        holders = {part.worker for part in parts if part.ended is None}
        alive = self._workers.alive(holders)
        error = "" if stop else self._trouble(run_id, fields, parts, holders - alive)
        if error:
            self.stop(run_id, FAILED, error)
            return True
        all_ended = not holders and len(parts) == int(fields["parts"])
        if not all_ended and (alive or not stop):
            return False
        complete = sum(part.succeeded + part.failed for part in parts) == int(fields["requested"])
        self._end(run_id, FINISHED if complete and all_ended else stop or FINISHED, parts)
        return True

    def _trouble(self, run_id: str, fields: Mapping[str, str], parts: Sequence[Part], lost: set[str]) -> str:
        """Return why a run cannot go on, or nothing."""
        if not parts:
            return NOT_TAKEN if time.time() - float(fields["created"]) > QUEUE_SECONDS else ""
        between_parts = len(parts) < int(fields["parts"]) and all(part.ended for part in parts)
        with server_errors():
            if lost or (between_parts and not self._workers.any_alive()):
                now = round(time.time(), 6)
                since = str(script("run_suspect")(self._client, self._keys(run_id)[:1], [f"{now:.6f}"]))
                return LOST if since and now - float(since) >= SUSPECT_SECONDS else ""
            if "suspected" in fields:
                self._client.hdel(self._keys(run_id)[0], "suspected")
        return ""

    def _end(self, run_id: str, status: str, parts: Sequence[Part]) -> None:
        keys = self._keys(run_id)
        now = time.time()
        with server_errors():
            latency = merged_summary(self._client.hvals(keys[2]))
            fields: dict[str, str | int] = {
                "status": status,
                "finished": f"{max((part.ended or now for part in parts), default=now):.6f}",
                "succeeded": sum(part.succeeded for part in parts),
                "failed": sum(part.failed for part in parts),
                "latency": json.dumps(latency),
            }
            words = [word for pair in fields.items() for word in pair]
            ended_here = script("run_end")(self._client, [*keys, self._ended], [END_KEPT_SECONDS, *words])
        self._close(run_id)
        if ended_here:
            told = {"run": run_id, "status": status, "succeeded": fields["succeeded"], "failed": fields["failed"]}
            log.info("a test run has ended", extra=told)

    def _close(self, run_id: str) -> None:
        with server_errors():
            self._client.zrem(self._open, run_id)

    def _keys(self, run_id: str) -> list[str]:
        run = f"{self._run}{run_id}"
        return [run, f"{run}:urls", f"{run}:latencies", f"{run}:end"]
