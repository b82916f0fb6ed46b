"""Exact counts of every request a web service answers, by URL path, in Redis or Valkey."""

from importlib import import_module
from typing import TYPE_CHECKING

from hitledger.errors import HitledgerError

if TYPE_CHECKING:
    from hitledger.asgi import CountHitsASGI
    from hitledger.client import Ledger
    from hitledger.counter import Counter
    from hitledger.middleware import CountHits
    from hitledger.web import create_app

__all__ = ["CountHits", "CountHitsASGI", "Counter", "HitledgerError", "Ledger", "create_app"]

_HOMES = {
    "CountHits": "hitledger.middleware",
    "CountHitsASGI": "hitledger.asgi",
    "Counter": "hitledger.counter",
    "Ledger": "hitledger.client",
    "create_app": "hitledger.web",
}


def __getattr__(name: str) -> object:
    # At first use: counting must not import the web service, nor `hitledger --help` redis-py.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
