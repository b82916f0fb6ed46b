"""The verdict: the ledger against the client's tally, URL by URL, and the audit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hitledger.audit import audit
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
from tests.books import counts_of
from tests.storm.schedule import KILLS

UNWANTED = ("pending", "refused", "lost")


@dataclass
class Verdict:
    """What a storm did and found. `broken` requests may have been counted; `broken_counted` were."""

    seed: int
    seconds: float
    faults: dict[str, int]
    requests: int
    answered: int
    broken: int
    all_posted_after_seconds: float
    shards: int = 1
    urls: int = 0
    broken_counted: int = 0
    lost: int = 0
    doubled: int = 0
    balance: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """How many processes were killed."""
        return sum(self.faults.get(name, 0) for name in KILLS)

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON document."""
        return {**asdict(self), "kills": self.kills}

    def __str__(self) -> str:
        faults = sorted(self.faults.items(), key=lambda each: -each[1])
        rate = self.requests / self.seconds
        return "\n".join([
            f"storm {self.seed}: {self.seconds:.0f} s, {sum(self.faults.values()):,} faults, {self.kills:,} kills",
            *(f"  {count:6,}  {name}" for name, count in faults),
            f"requests {self.requests:,} ({rate:,.0f} a second) to {self.urls:,} URLs in {self.shards} shards",
            f"answered {self.answered:,}, broken off {self.broken:,}, of which {self.broken_counted:,} were counted",
            (f"lost {self.lost:,}, doubled {self.doubled:,}; "
            f"all posted {self.all_posted_after_seconds:.1f} s after the last fault"),
            "balance: " + ", ".join(f"{name} {count:,}" for name, count in self.balance.items()),
            *(f"VIOLATED: {line}" for line in self.violations),
        ])  # fmt: skip


def compare(verdict: Verdict, tally: Mapping[str, Any], settings: Settings, seen: Sequence[str]) -> Verdict:
    """Complete a verdict from the tally and the ledger; `seen` are violations seen on the way."""
    store = LedgerStore(settings)
    try:
        ledger = counts_of(store) | store.totals().lines
        report = audit(settings, store)
    finally:
        store.close()
    answered, broken = Counter(tally["answered"]), Counter(tally["broken"])
    verdict.urls = len(ledger)
    verdict.broken_counted = sum(ledger.values()) - answered.total()
    verdict.lost = sum(max(0, count - ledger.get(key, 0)) for key, count in answered.items())
    verdict.doubled = sum(max(0, count - answered[key] - broken[key]) for key, count in ledger.items())
    verdict.balance = report.balance
    verdict.violations += [*seen, *report.differences, *_wrong(verdict, tally)]
    return verdict


def _wrong(verdict: Verdict, tally: Mapping[str, Any]) -> list[str]:
    lines = [f"the balance has {verdict.balance[name]:,} hits {name}" for name in UNWANTED if verdict.balance[name]]
    if verdict.lost:
        lines.append(f"{verdict.lost:,} answered requests are not counted")
    if verdict.doubled:
        lines.append(f"{verdict.doubled:,} hits are counted that were never received")
    if tally["wrong"]:
        lines.append(f"{tally['wrong']:,} answers with another status, such as {tally['unexpected'][0]}")
    return lines
