"""`/metrics` for Prometheus: the books' figures, which are the same whichever process answers.

They come from the ledger and from this host's journal folder, so they need no memory shared
among processes, survive restarts and leave no files behind. A ledger that is away is a 0 in
`hitledger_ledger_up`; its figures are then missing, not zero.
"""

from __future__ import annotations

from collections.abc import Iterator

from flask import Blueprint, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from hitledger.audit import QUARANTINED_SUFFIX
from hitledger.errors import LedgerError
from hitledger.host import Host
from hitledger.journal import SUFFIX
from hitledger.web.services import Services


class Books(Collector):
    """The balance of the ledger, shard by shard, and of this host's journal."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        """Read the books."""
        yield from self._ledger()
        yield from self._host()

    def _ledger(self) -> Iterator[Metric]:
        store = self._services.store
        up = GaugeMetricFamily("hitledger_ledger_up", "1 while the ledger can be read.")
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
        urls = GaugeMetricFamily("hitledger_urls", "Distinct URLs in the ledger.")
        try:
            books = [store.books(shard) for shard in range(store.identity.shards)]
            urls.add_metric([], store.totals().urls)
        except LedgerError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        for shard, each in enumerate(books):
            posted.add_metric([str(shard)], each.requests)
            lost.add_metric([str(shard)], each.lost)
            damaged.add_metric([str(shard)], each.damaged)
            difference.add_metric([str(shard)], each.requests - each.by_watermarks)
        yield from (up, posted, lost, damaged, difference, urls)

    def _host(self) -> Iterator[Metric]:
        services = self._services
        directory, host = services.settings.journal_dir, Host()
        files = host.files(directory, SUFFIX)
        yield gauge("hitledger_journal_bytes", "Bytes of this host's journal.", sum(size for _, size in files))
        yield gauge("hitledger_journal_files", "Journal files of this host.", len(files))
        yield gauge(
            "hitledger_journal_cap_bytes", "Bytes at which the journal is full.", services.settings.journal_cap_bytes
        )
        pending = services.counter.poster.status.pending_bytes
        yield gauge("hitledger_journal_pending_bytes", "Bytes of the journal that are not posted yet.", pending)
        refused = len(host.files(directory, QUARANTINED_SUFFIX))
        yield gauge("hitledger_journal_refused_files", "Journal files that were set aside and not posted.", refused)


def gauge(name: str, text: str, value: float) -> Metric:
    """Return a gauge with one value."""
    return GaugeMetricFamily(name, text, value=value)


def metrics_blueprint(services: Services) -> Blueprint:
    """Return the endpoint; it is not counted."""
    blueprint = Blueprint("metrics", __name__)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Books(services))

    @blueprint.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    return blueprint
