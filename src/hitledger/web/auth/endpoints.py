"""Which right each endpoint needs: all of them, in this one table.

An endpoint that is not in it lets nobody in, and a test fails, so that nobody forgets to
decide. Names are Flask's: the blueprint's and the function's.
"""

from __future__ import annotations

from hitledger.rights import LEDGER_ADMIN, STATS_READ, TEST_RUN

OPEN: frozenset[str] = frozenset()
"""Anybody, known or not."""
READERS = frozenset({STATS_READ})
RUNNERS = frozenset({TEST_RUN})
ADMINISTRATORS = frozenset({LEDGER_ADMIN})
FOLLOWERS = frozenset({STATS_READ, TEST_RUN})
"""A run is followed by whoever may start one, and by whoever may see what it has counted."""

NEEDS = {
    # What is counted, not what counts.
    "api.simulated": OPEN,
    "api.below": OPEN,
    # Probes and scrapers: keep them off other networks with HITLEDGER_ADMIN_PORT.
    "health.livez": OPEN,
    "health.readyz": OPEN,
    "metrics.metrics": OPEN,
    # How to use the service, and what its pages are made of.
    "docs.openapi": OPEN,
    "docs.docs": OPEN,
    "docs.asset": OPEN,
    "static": OPEN,
    # Coming in and going out.
    "auth.sign_in": OPEN,
    "auth.use_key": OPEN,
    "auth.callback": OPEN,
    "auth.sign_out": OPEN,
    "auth.signed_out": OPEN,
    # Reports, and the pages made of them.
    "stats.stats": READERS,
    "stats.one_url": READERS,
    "stats.export": READERS,
    "series.history": READERS,
    "series.series": READERS,
    "dashboard.now": READERS,
    "dashboard.live": READERS,
    "dashboard.one_url": READERS,
    "dashboard.live_url": READERS,
    # The books. It reads all of them, and names the host's files.
    "audit.audit": ADMINISTRATORS,
    # Test runs.
    "dashboard.runs": FOLLOWERS,
    "dashboard.live_run": FOLLOWERS,
    "dashboard.start_run": RUNNERS,
    "dashboard.cancel_run": RUNNERS,
    "runs.list_runs": FOLLOWERS,
    "runs.get_run": FOLLOWERS,
    "runs.start": RUNNERS,
    "runs.cancel": RUNNERS,
}
"""Endpoint -> rights of which one is enough."""

NOBODY = frozenset({"a right that nobody has"})


def needs_of(endpoint: str) -> frozenset[str]:
    """Return the rights of which one is enough for an endpoint; `OPEN` where none is needed."""
    return NEEDS.get(endpoint, NOBODY)
