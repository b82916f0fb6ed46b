"""Fixtures that every test module shares."""

from __future__ import annotations

import copy
import functools
import itertools
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from flask_openapi3 import utils
from hypothesis import HealthCheck
from hypothesis import settings as examples

from hitledger.ledger import LedgerStore
from hitledger.report import shelf
from hitledger.settings import Settings
from hitledger.web import create_app, desk, limits
from hitledger.web.auth import issuer
from tests.guarded import GUARDED, guarded, start_valkey, tokens_sent
from tests.issuer import LocalIssuer
from tests.support import Clients, Valkey, clear_of_a_turn

# What the machine's own environment says of proxies, terminals and this service is not meant for the tests.
for _name in [name for name in os.environ if name.startswith("HITLEDGER_")] + ["FORCE_COLOR", "COLUMNS", "LINES"]:
    os.environ.pop(_name, None)
os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(
    filter(None, [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "127.0.0.1", "localhost"])
)

# A busy machine makes no test fail, and the same commit is asked the same questions each time:
# `--hypothesis-profile=default` asks others.
examples.register_profile("same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
examples.load_profile("same")
_prefixes = itertools.count()


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """One Valkey for the whole session; tests keep apart by key prefix."""
    # Not pytest's own folder: a socket's path may have 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="hitledger-") as directory:
        server = start_valkey(Path(directory))
        yield server
        server.stop()


@pytest.fixture(scope="session")
def issuer_of_all() -> Iterator[LocalIssuer | None]:
    """The issuer whose tokens all clients send, with GUARDED=1; else None."""
    if not GUARDED:
        yield None
        return
    with LocalIssuer() as issuer, tokens_sent(issuer):
        yield issuer


@pytest.fixture
def token(issuer_of_all: LocalIssuer | None) -> str | None:
    """What a program shows a service that asks for tokens; None where it asks for none."""
    return issuer_of_all.access() if issuer_of_all else None


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder of the test's own with a path short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="hitledger-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture
def settings(valkey: Valkey, tmp_path: Path, issuer_of_all: LocalIssuer | None) -> Settings:
    """Settings with a journal and a ledger of the test's own."""
    made = Settings(redis_url=valkey.url, data_dir=tmp_path / "data", key_prefix=f"test-{next(_prefixes)}")
    return guarded(made, issuer_of_all) if issuer_of_all else made


@pytest.fixture(scope="session", autouse=True)
def schemas_told_once() -> None:
    """Have each model tell its schema once: hundreds of tests build the whole application, mostly of schemas."""
    told = functools.cache(utils.get_model_schema)

    def tell(*words: Any, **options: Any) -> dict[str, Any]:
        return copy.deepcopy(told(*words, **options))

    utils.get_model_schema = tell


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy machine make no limits' store or issuer one that is away, and no report one that is shown for long."""
    monkeypatch.setattr(shelf, "SLOW_SECONDS", float("inf"))
    monkeypatch.setattr(desk, "MOST_WAIT_SECONDS", 20)
    monkeypatch.setattr(limits, "STORE_SECONDS", 20.0)
    monkeypatch.setattr(issuer, "ANSWER_SECONDS", 20.0)


@pytest.fixture
def one_hour() -> None:
    """Let no hour, day or month turn in the middle of a test that compares with now."""
    clear_of_a_turn()


@pytest.fixture
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What this process, and those that it starts, are told of the test's ledger."""
    found = {
        "HITLEDGER_REDIS_URL": str(settings.redis_url),
        "HITLEDGER_DATA_DIR": str(settings.data_dir),
        "HITLEDGER_KEY_PREFIX": settings.key_prefix,
    }
    for name, text in found.items():
        monkeypatch.setenv(name, text)
    return found


@pytest.fixture
def store(settings: Settings) -> Iterator[LedgerStore]:
    """The ledger of `settings`."""
    store = LedgerStore(settings)
    yield store
    store.close()


@pytest.fixture
def clients(settings: Settings) -> Iterator[Clients]:
    """Make clients of services that have `settings` with changes; the services end with the test."""
    apps: list[Flask] = []

    def make(**changes: Any) -> FlaskClient:
        apps.append(create_app(replace(settings, **changes)))
        return apps[-1].test_client()

    yield make
    for app in apps:
        app.extensions["hitledger"].counter.stop()
