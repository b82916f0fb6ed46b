"""Reports: what readers get of the ledger, in order, and nothing else of it."""

from hitledger.report.page import Page, Row
from hitledger.report.query import Query
from hitledger.report.reports import Reports

__all__ = ["Page", "Query", "Reports", "Row"]
