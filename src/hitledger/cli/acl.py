"""The users of the ledger's server."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import click

from hitledger.acl import BROKER, DEFAULT, LIMITS, users
from hitledger.errors import ServiceError
from hitledger.settings import Settings, read_secret

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option("--broker", is_flag=True, help="This server also keeps the queue of test runs.")
@click.option("--limits", is_flag=True, help="This server also keeps the counts of HITLEDGER_LIMIT_...")
@click.option("--reader-password-file", type=_FILE, help="The password of the user for reports.")
@click.option("--maintenance-password-file", type=_FILE, help="The password of the user for operators.")
def acl(
    *, broker: bool, limits: bool, reader_password_file: Path | None, maintenance_password_file: Path | None
) -> None:
    """Print a users.acl: the users of the ledger's server, each with the least that its work needs.

    The service's own user and password are those of HITLEDGER_REDIS_URL and HITLEDGER_REDIS_PASSWORD_FILE.
    Passwords are written as digests. A user without a password is there, and nobody can log in as it.
    """
    settings = Settings.from_environment()
    parts = urlsplit(settings.redis_url or "")
    name, password = unquote(parts.username or "") or "hitledger", unquote(parts.password or "")
    if name == "default":
        raise ServiceError("The user default must stay as it is.", "Name another in HITLEDGER_REDIS_URL: hitledger.")
    passwords = [password or None]
    for option, file in (("reader", reader_password_file), ("maintenance", maintenance_password_file)):
        passwords.append(read_secret(file, f"--{option}-password-file") if file else None)
    click.echo("# Made by `hitledger acl`: load it with `aclfile` in the server's configuration, or `ACL LOAD`.")
    click.echo(DEFAULT)
    for user, secret in zip(
        users(name, *(BROKER if broker else ()), *(LIMITS if limits else ())), passwords, strict=True
    ):
        click.echo(f"{user.line(settings.key_prefix, secret)}")
