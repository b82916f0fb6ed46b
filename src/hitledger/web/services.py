"""What the endpoints work with, built once by `create_app`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hitledger.counting import HitCounter
from hitledger.ledger import LedgerStore
from hitledger.report import Reports
from hitledger.settings import Settings
from hitledger.testrun.runs import Runs


@dataclass(frozen=True)
class Services:
    """The parts of one service."""

    settings: Settings
    store: LedgerStore
    counter: HitCounter
    reports: Reports
    runs: Runs
    memory: dict[str, Any] = field(default_factory=dict)
    """What endpoints remember of earlier requests, in this process."""
