"""What is installed, and how it is set."""

from __future__ import annotations

from importlib.metadata import version as version_of

import click

from hitledger.cli.output import json_option, print_json, print_table
from hitledger.settings import Settings


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"hitledger {version_of('hitledger')}")


@click.command()
@json_option
def settings(*, as_json: bool) -> None:
    """Print every setting: name, value, default, unit and help."""
    rows = Settings.from_environment().describe()
    if as_json:
        print_json(rows)
        return
    columns = ("name", "value", "default", "unit", "help")
    print_table(columns, ([row[column] for column in columns] for row in rows))
