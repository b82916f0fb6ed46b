"""Looking at a host and its ledger."""

from __future__ import annotations

import click

from hitledger.cli.output import json_option, print_json, print_table
from hitledger.doctor import as_rows, examine
from hitledger.findings import FAIL, OK, worst
from hitledger.settings import Settings


@click.command()
@json_option
def doctor(*, as_json: bool) -> int:
    """See whether this host and its ledger keep what the guarantees lean on.

    Exit status 1 where a check fails. A ledger in use may be examined.
    """
    found = examine(Settings.from_environment())
    rows = as_rows(found)
    if as_json:
        print_json({"status": worst(found), "findings": rows})
    else:
        columns = ("status", "check", "subject", "finding")
        print_table(columns, ([row["status"], row["check"], row["subject"], _text(row)] for row in rows))
    return 1 if worst(found) == FAIL else 0


def _text(row: dict[str, str]) -> str:
    return row["what"] if row["status"] == OK else f"{row['what']} {row['remedy']}".strip()
