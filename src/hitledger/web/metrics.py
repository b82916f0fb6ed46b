"""`/metrics` for Prometheus: figures that are the same whichever process answers.

What the books hold comes from the ledger and from this host's journal folder; what the
processes of this host did comes from their meters (`hitledger.meters`). So nothing is lost
with a process, and no files pile up. A ledger that is away is a 0 in `hitledger_ledger_up`;
its figures are then missing, not zero.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

from flask import Blueprint, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from hitledger.audit import QUARANTINED_SUFFIX
from hitledger.counting import JOURNAL, LOST, RECEIVED
from hitledger.errors import LedgerError
from hitledger.host import Host
from hitledger.journal import HEADER_BYTES, SUFFIX
from hitledger.meters import BUCKETS_MS, CELLS
from hitledger.progress import BATCHES, FAILURES, POSTING, RETRIES, ROUND_TRIP, THROUGH
from hitledger.web.observed import ROW
from hitledger.web.services import Services

NOTHING = [0] * CELLS
Meters = Mapping[str, list[int]]


class Books(Collector):
    """The balance of the ledger, shard by shard, and its test runs."""

    def __init__(self, services: Services) -> None:
        self._store = services.store
        self._runs = services.runs
        self._most_urls = services.settings.max_urls

    def collect(self) -> Iterator[Metric]:
        """Read the ledger."""
        try:
            found = [*self._books(), *self._test_runs()]
        except LedgerError:
            found = []
        yield gauge("hitledger_ledger_up", "1 while the ledger can be read.", bool(found))
        yield from found

    def _books(self) -> Iterator[Metric]:
        posted = CounterMetricFamily(
            "hitledger_posted_hits", "Hits in the ledger since its last reset.", labels=["shard"]
        )
        lost = CounterMetricFamily(
            "hitledger_lost_hits", "Hits that were received and are not counted.", labels=["shard"]
        )
        damaged = CounterMetricFamily(
            "hitledger_damaged_records", "Journal records that cannot be read.", labels=["shard"]
        )
        difference = GaugeMetricFamily(
            "hitledger_audit_difference_hits", "The shard's total less what its watermarks add up to.", labels=["shard"]
        )
        for shard in range(self._store.identity.shards):
            books = self._store.books(shard)
            posted.add_metric([str(shard)], books.requests)
            lost.add_metric([str(shard)], books.lost)
            damaged.add_metric([str(shard)], books.damaged)
            difference.add_metric([str(shard)], books.requests - books.by_watermarks)
        yield from (posted, lost, damaged, difference)
        yield gauge("hitledger_urls", "Distinct URLs in the ledger.", self._store.totals().urls)
        yield gauge("hitledger_urls_cap", "Distinct URLs that the ledger takes.", self._most_urls)

    def _test_runs(self) -> Iterator[Metric]:
        figures = self._runs.figures()
        yield gauge("hitledger_workers", "Workers for test runs that are alive.", figures.workers)
        yield gauge("hitledger_runs_open", "Test runs that have not ended.", figures.open)
        runs = CounterMetricFamily("hitledger_runs", "Test runs that have ended, by how.", labels=["status"])
        for status in ("finished", "cancelled", "failed"):
            runs.add_metric([status], figures.ended.get(status, 0))
        requests = CounterMetricFamily(
            "hitledger_run_requests", "Requests of test runs that have ended.", labels=["outcome"]
        )
        for outcome in ("succeeded", "failed"):
            requests.add_metric([outcome], figures.ended.get(f"requests:{outcome}", 0))
        yield from (runs, requests)


class ThisHost(Collector):
    """This host's journal and disk, and what its processes did."""

    def __init__(self, services: Services) -> None:
        self._settings = services.settings
        self._meters = services.counter.meters
        self._refused: dict[tuple[str, int], int] = {}

    def collect(self) -> Iterator[Metric]:
        """Read the folders and the meters."""
        meters = self._meters.read()
        yield from self._journal(meters)
        yield from self._disk()
        yield from posting(meters)
        yield from requests(meters)

    def _journal(self, meters: Meters) -> Iterator[Metric]:
        files = Host().files(self._settings.journal_dir, SUFFIX)
        size = sum(size for _, size in files)
        yield gauge("hitledger_journal_bytes", "Bytes of this host's journal.", size)
        yield gauge("hitledger_journal_files", "Journal files of this host.", len(files))
        cap = self._settings.journal_cap_bytes
        yield gauge("hitledger_journal_cap_bytes", "Bytes at which the journal is full.", cap)
        posted = meters.get(THROUGH, NOTHING)[1]
        pending = max(0, size - HEADER_BYTES * len(files) - posted)
        yield gauge("hitledger_journal_pending_bytes", "Bytes of the journal that are not posted yet.", pending)
        hits = meters.get(JOURNAL, NOTHING)
        yield counter("hitledger_received_hits", "Hits that this host's processes were given.", hits[RECEIVED])
        yield counter("hitledger_unjournalled_hits", "Hits that could not be journalled: lost.", hits[LOST])
        refused = Host().files(self._settings.journal_dir, QUARANTINED_SUFFIX)
        yield gauge("hitledger_journal_refused_files", "Journal files that were set aside, not posted.", len(refused))
        yield gauge("hitledger_refused_hits", "Records in the files that were set aside.", self._count(refused))

    def _count(self, files: Sequence[tuple[Path, int]]) -> int:
        """Count the records of files that nobody writes to any more, each file once."""
        known, self._refused = self._refused, {}
        for path, size in files:
            key = (path.name, size)
            self._refused[key] = known[key] if key in known else records_of(path)
        return sum(self._refused.values())

    def _disk(self) -> Iterator[Metric]:
        with suppress(OSError):
            disk = os.statvfs(self._settings.data_dir)
            free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
            yield gauge("hitledger_disk_free_bytes", "Bytes that are free on the disk of the data folder.", free)
            yield gauge("hitledger_disk_bytes", "Bytes of the disk of the data folder.", size)


def posting(meters: Meters) -> Iterator[Metric]:
    """Yield how posting goes on this host, whichever process does it."""
    if through := meters.get(THROUGH, NOTHING)[0]:
        lag = max(0.0, time.time() - through / 1e6)
        yield gauge("hitledger_posting_lag_seconds", "Seconds since all that the journal then held was posted.", lag)
    counts = meters.get(POSTING, NOTHING)
    yield counter("hitledger_posting_batches", "Batches sent to the ledger.", counts[BATCHES])
    yield counter("hitledger_posting_retries", "Batches that have to be sent again.", counts[RETRIES])
    yield counter("hitledger_posting_failures", "Rounds of posting that ended with an error.", counts[FAILURES])
    trips = HistogramMetricFamily("hitledger_ledger_round_trip_seconds", "How long the ledger takes to book batches.")
    trips.add_metric([], *histogram(meters.get(ROUND_TRIP, NOTHING)))
    yield trips


def requests(meters: Meters) -> Iterator[Metric]:
    """Yield how many requests each route of this host answered, and how long they took."""
    family = HistogramMetricFamily(
        "hitledger_http_request_duration_seconds",
        "How long answers took, until their last byte was handed to the server.",
        labels=["method", "status", "route"],
    )
    for name, cells in sorted(meters.items()):
        if name.startswith(ROW):
            family.add_metric(name.removeprefix(ROW).split(" ", 2), *histogram(cells))
    yield family


def histogram(cells: Sequence[int]) -> tuple[list[tuple[str, float]], float]:
    """Return a meter's histogram in Prometheus' words: cumulative buckets, and the sum in seconds."""
    bounds = [*(str(bound / 1000) for bound in BUCKETS_MS), "+Inf"]
    return list(zip(bounds, map(float, accumulate(cells[1:])), strict=True)), cells[0] / 1e9


def records_of(path: Path) -> int:
    """Return how many records a file has: each begins with a line feed; 0 where it is gone."""
    with suppress(OSError), path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(2**20), b""))
    return 0


def gauge(name: str, text: str, value: float) -> Metric:
    """Return a gauge with one value."""
    return GaugeMetricFamily(name, text, value=value)


def counter(name: str, text: str, value: float) -> Metric:
    """Return a counter with one value."""
    return CounterMetricFamily(name, text, value=value)


def metrics_blueprint(services: Services) -> Blueprint:
    """Return the endpoint; it is not counted."""
    blueprint = Blueprint("metrics", __name__)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Books(services))
    registry.register(ThisHost(services))

    @blueprint.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    return blueprint
