"""apikeys: made once, kept as a digest, checked quickly, and over when they are revoked."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from click.testing import CliRunner

from hitledger.apikeys import CACHE_SECONDS, FORM, MOST_LOOKS, SECRET_CHARACTERS, ApiKey, ApiKeys, KeyChecker, _sum_of
from hitledger.cli import commands
from hitledger.errors import LedgerUnavailableError
from hitledger.ledger import LedgerStore
from hitledger.rights import RIGHTS, read_mapping, rights_of
from hitledger.settings import Settings

ALL = frozenset(RIGHTS)


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock for the cache."""
    return Clock()


@pytest.fixture
def keys(store: LedgerStore) -> ApiKeys:
    """The keys of a ledger."""
    return ApiKeys(store)


@pytest.fixture
def checker(keys: ApiKeys, clock: Clock) -> KeyChecker:
    """What checks them."""
    return KeyChecker(keys, clock)


def test_a_key_is_known_by_its_whole_text(keys: ApiKeys, checker: KeyChecker) -> None:
    """The key that was made is good; with any one character changed it is not."""
    whole, made = keys.create("scraper", frozenset({"stats:read"}))
    assert FORM.fullmatch(whole)
    found = checker.check(whole)
    assert found == made
    assert found.rights == {"stats:read"}
    for at in range(len(whole)):
        other = whole[:at] + ("x" if whole[at] != "x" else "y") + whole[at + 1 :]
        assert checker.check(other) is None
    assert checker.check("") is None
    assert checker.check(whole + "x") is None


def test_the_form_alone_is_no_key(keys: ApiKeys, checker: KeyChecker) -> None:
    """A secret of the right form under a known id, checksum and all, is not let in: the digest decides."""
    whole, made = keys.create("real", ALL)
    body = f"hl_{made.id}_{'b' * SECRET_CHARACTERS}"
    forged = body + _sum_of(body)
    assert FORM.fullmatch(forged)
    assert checker.check(forged) is None
    assert checker.check(whole) is not None


def test_the_ledger_holds_no_key(keys: ApiKeys, store: LedgerStore) -> None:
    """What is kept cannot be used: the secret is nowhere in it."""
    whole, made = keys.create("scraper", ALL)
    kept = store.reader(0).hgetall(keys._key)
    assert list(kept) == [made.id]
    assert whole.split("_")[2] not in json.dumps(kept)


def test_a_revoked_key_is_over_when_the_cache_is(keys: ApiKeys, checker: KeyChecker, clock: Clock) -> None:
    """Known for half a minute at most; a new look finds it gone."""
    whole, made = keys.create("scraper", ALL)
    assert checker.check(whole)
    assert keys.revoke(made.id)
    assert not keys.revoke(made.id)
    clock.now += CACHE_SECONDS - 1
    assert checker.check(whole)
    clock.now += 1
    assert checker.check(whole) is None
    assert keys.list() == []


def test_a_key_ends_by_itself(keys: ApiKeys, checker: KeyChecker, monkeypatch: pytest.MonkeyPatch) -> None:
    """One made for so many days is good until then, cached or not."""
    whole, made = keys.create("guest", ALL, days=1)
    assert made.expires
    assert checker.check(whole)
    monkeypatch.setattr(time, "time", lambda: float(made.expires or 0))
    assert checker.check(whole) is None


def test_a_ledger_that_is_away(keys: ApiKeys, settings: Settings, clock: Clock) -> None:
    """A key that was seen lately stays good; any other cannot be told."""
    whole, _ = keys.create("scraper", ALL)
    away = LedgerStore(replace(settings, redis_url="redis://127.0.0.1:1"))
    checker = KeyChecker(ApiKeys(away), clock)
    with pytest.raises(LedgerUnavailableError):
        checker.check(whole)
    checker._keys = keys
    assert checker.check(whole)
    checker._keys = ApiKeys(away)
    clock.now += CACHE_SECONDS - 1
    assert checker.check(whole)
    clock.now += 1
    with pytest.raises(LedgerUnavailableError):
        checker.check(whole)
    away.close()


def test_a_flood_of_made_up_keys_is_cheap(
    keys: ApiKeys, checker: KeyChecker, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many keys are made up, the ledger is asked few times; true ones are known, new ones in a second."""
    old, _ = keys.create("old", ALL)
    assert checker.check(old)
    looks = []

    def counted() -> list[ApiKey]:
        looks.append(clock.now)
        return ApiKeys.list(keys)

    monkeypatch.setattr(keys, "list", counted)
    for number in range(1000):
        body = f"hl_{number:010}_{'b' * SECRET_CHARACTERS}"
        assert checker.check(body + _sum_of(body)) is None
    assert len(looks) == MOST_LOOKS
    new, _ = keys.create("new", ALL)
    assert checker.check(old)
    assert checker.check(new) is None
    clock.now += 1
    assert checker.check(new)
    assert len(looks) == MOST_LOOKS + 1


def test_a_reset_keeps_the_keys(keys: ApiKeys, store: LedgerStore) -> None:
    """Starting the counts anew locks nobody out."""
    keys.create("scraper", ALL)
    store.reset()
    assert [key.name for key in keys.list()] == ["scraper"]


@pytest.fixture
def runner(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Runs commands on the test's ledger."""
    for name in ("redis_url", "data_dir", "key_prefix"):
        monkeypatch.setenv(f"HITLEDGER_{name.upper()}", str(getattr(settings, name)))
    return CliRunner()


def test_keys_from_the_command_line(runner: CliRunner, checker: KeyChecker) -> None:
    """A key is made and shown once, listed without its secret, and revoked."""
    made = runner.invoke(
        commands, ["keys", "create", "--name", "ci", "--rights", "stats:read, test:run", "--days", "9"]
    )
    whole = made.stdout.strip()
    assert "only time" in made.stderr
    found = checker.check(whole)
    assert found
    assert found.rights == {"stats:read", "test:run"}
    listed = runner.invoke(commands, ["keys", "list", "--json"])
    assert whole not in listed.output
    (row,) = json.loads(listed.stdout)
    assert (row["id"], row["name"], row["rights"]) == (found.id, "ci", "stats:read, test:run")
    assert runner.invoke(commands, ["keys", "revoke", found.id]).exit_code == 0
    assert runner.invoke(commands, ["keys", "revoke", found.id]).exit_code == 1
    assert "No" not in runner.invoke(commands, ["keys", "list"]).stdout


@pytest.mark.parametrize("words", [["--rights", "stats:write"], ["--rights", ""], ["--name", "a\nb"], ["--days", "0"]])
def test_a_key_that_cannot_be_made(runner: CliRunner, keys: ApiKeys, words: list[str]) -> None:
    """A right that there is not, a name that breaks lines: wrong usage, and nothing is made."""
    given = {"--name": "x", "--rights": "stats:read", words[0]: words[1]}
    answer = runner.invoke(commands, ["keys", "create", *(word for pair in given.items() for word in pair)])
    assert answer.exit_code == 2
    assert keys.list() == []


def test_what_values_of_a_claim_give() -> None:
    """Without a mapping, rights by their names; with one, what it says, and nothing by name."""
    assert rights_of(["openid", "stats:read"], None) == {"stats:read"}
    mapping = read_mapping("cn=ops,ou=groups=test:run+ledger:admin; staff = stats:read ;")
    assert rights_of(["cn=ops,ou=groups", "stats:read"], mapping) == {"test:run", "ledger:admin"}
    assert rights_of(["staff"], mapping) == {"stats:read"}
    assert rights_of([], read_mapping("*=stats:read")) == {"stats:read"}
    for wrong in ("", "staff", "staff=", "=stats:read", "staff=stats:write"):
        with pytest.raises(ValueError, match=r".*"):
            read_mapping(wrong)
