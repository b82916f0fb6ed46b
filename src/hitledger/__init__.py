"""Exact counts of every request a web service answers, by URL path, in Redis or Valkey."""

from hitledger.errors import HitledgerError
from hitledger.middleware import CountHits

__all__ = ["CountHits", "HitledgerError"]
