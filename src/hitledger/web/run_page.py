"""The page of test runs: those that there were, and one that is followed while its URLs climb."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hitledger.dispatch import Command
from hitledger.entries import shard_of
from hitledger.ledger import LedgerStore
from hitledger.testrun.pace import Paces
from hitledger.testrun.pool import paths_of
from hitledger.testrun.run import is_run_id
from hitledger.web.addresses import live_link, url_link
from hitledger.web.desk import Desk
from hitledger.web.runs import TestRun
from hitledger.web.shown import Shown

RUNS_SHOWN = 25
URLS_SHOWN = 12
"""Those of one and two segments are asked for most often: a third of a run's requests."""
OPEN = ("queued", "running")


def runs_context(desk: Desk, texts: dict[str, str]) -> dict[str, Any]:
    """Return what the page of test runs shows; `run` in the address chooses the one that is followed."""
    look, services = desk.look(), desk.services
    shown: Shown[list[TestRun]] = look.read("runs", lambda: [TestRun.of(run) for run in services.runs.list(RUNS_SHOWN)])
    run_id = texts.get("run", "")
    followed: Shown[tuple[TestRun, float | None] | None] = Shown(None)
    if is_run_id(run_id):
        followed = look.read(("run", run_id), lambda: _run(desk, run_id))
    run, pace = followed.report or (None, None)
    climbing = look.read(("climbing", run_id), lambda: hottest(services.store, run.pool)).report if run else None
    return {
        **look.frame(None),
        "status": 200,
        "parts": ("run.html", "run-list.html"),
        "live": live_link("/live/runs/", {"run": run_id} if run_id else {}),
        "shown": shown,
        "runs": shown.report or [],
        "run": run,
        "is_missing": bool(run_id) and run is None and not followed.error,
        "is_open": run is not None and run.status in OPEN,
        "pace": pace,
        "climbing": climbing or [],
        "most": services.settings.test_max_requests,
        "url_link": url_link,
    }


def _run(desk: Desk, run_id: str) -> tuple[TestRun, float | None] | None:
    """Return a run, and what it makes in a second just now."""
    found = desk.services.runs.get(run_id)
    if found is None:
        return None
    paces: Paces = desk.services.memory.setdefault("paces", Paces())
    return TestRun.of(found), paces.take(run_id, found.sent)


def hottest(store: LedgerStore, pool: Sequence[str]) -> list[tuple[str, int]]:
    """Return the shortest URLs of a run's pool with their hits, most first: one look-up each. Raises LedgerError."""
    urls = paths_of(pool)[:URLS_SHOWN]
    shards = store.identity.shards
    calls: list[tuple[int, Command]] = []
    for url in urls:
        shard = shard_of(url, shards)
        calls.append((shard, ("ZSCORE", store.set_key(shard), url)))
    scores = store.read(calls)
    return sorted(
        ((url, int(float(score or 0))) for url, score in zip(urls, scores, strict=True)), key=lambda each: -each[1]
    )
