"""API keys: make them, list them, revoke them."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from hitledger.apikeys import ApiKey, ApiKeys
from hitledger.cli.output import json_option, print_json, print_table
from hitledger.embedded import with_ledger
from hitledger.errors import ServiceError
from hitledger.ledger import LedgerStore
from hitledger.rights import RIGHTS, read_rights
from hitledger.settings import Settings

MOST_NAME = 64


@click.group()
def keys() -> None:
    """Make, list and revoke API keys, with which programs use the service.

    They count where HITLEDGER_AUTH is keys or oidc, and are sent as `Authorization: Bearer hl_...`.
    """


def _rights(_ctx: click.Context, _option: click.Parameter, text: str) -> frozenset[str]:
    try:
        return read_rights(word.strip() for word in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None


def _name(_ctx: click.Context, _option: click.Parameter, text: str) -> str:
    if not 1 <= len(text) <= MOST_NAME or not text.isprintable():
        raise click.BadParameter(f"takes 1 to {MOST_NAME} printable characters.")
    return text


@keys.command()
@click.option("--name", required=True, callback=_name, help="What the key is for.")
@click.option(
    "--rights", required=True, callback=_rights, help=f"What it may do: some of {', '.join(RIGHTS)}, with commas."
)
@click.option("--days", type=click.IntRange(1, 3660), help="It ends after so many days. Without: never.")
@json_option
def create(*, name: str, rights: frozenset[str], days: int | None, as_json: bool) -> None:
    """Make a key and print it. It is shown this once and kept nowhere."""
    whole, key = _keys().create(name, rights, days)
    if as_json:
        print_json({"key": whole, **_row(key)})
        return
    click.echo(whole)
    click.echo(f"This is the only time that the key {key.id} is shown.", err=True)


@keys.command(name="list")
@json_option
def list_keys(*, as_json: bool) -> None:
    """List all keys, without their secrets."""
    rows = [_row(key) for key in _keys().list()]
    if as_json:
        print_json(rows)
        return
    columns = ("id", "name", "rights", "made", "expires")
    print_table(columns, ([row[column] for column in columns] for row in rows))


@keys.command()
@click.argument("key_id", metavar="ID")
def revoke(key_id: str) -> None:
    """End a key. Services notice within half a minute."""
    if not _keys().revoke(key_id):
        raise ServiceError(f"There is no key {key_id[:64]!r}.", "`hitledger keys list` shows those there are.")
    click.echo(f"The key {key_id} is revoked.")


def _keys() -> ApiKeys:
    return ApiKeys(LedgerStore(with_ledger(Settings.from_environment())))


def _row(key: ApiKey) -> dict[str, str]:
    rights = ", ".join(right for right in RIGHTS if right in key.rights)
    expires = _time(key.expires) if key.expires else "never"
    return {"id": key.id, "name": key.name, "rights": rights, "made": _time(key.made), "expires": expires}


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
