"""Write the reference pages: settings, commands and the HTTP API, each from what it describes."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from hitledger.cli import COMMANDS, HIDDEN, commands
from hitledger.settings import Settings
from hitledger.web import create_app

METHODS = ("get", "post", "put", "delete")


def write(directory: Path) -> None:
    """Write every page into a directory, where it differs from what is there."""
    directory.mkdir(exist_ok=True)
    for name, lines in (("settings", settings()), ("commands", command_line()), ("http-api", http_api())):
        text = "\n".join(lines) + "\n"
        page = directory / f"{name}.md"
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def settings() -> Iterator[str]:
    """Yield the page of settings."""
    yield from (
        "# Settings",
        "",
        "Environment variables, read once at start. An unknown `HITLEDGER_…` name or a bad value stops the start with",
        "one line that names it. `hitledger settings` prints what is in force, secrets hidden.",
        "",
    )
    for row in Settings().describe():
        default = f"`{row['default']}`" if row["default"] else "unset"
        unit = f" {row['unit']}" if row["unit"] and row["default"] else ""
        yield from (f"## {row['name']}", "", row["help"], "", f"Takes {row['allowed']}. Default: {default}{unit}.", "")


def command_line() -> Iterator[str]:
    """Yield the page of commands."""
    yield from (
        "# Command line",
        "",
        "Errors go to standard error in one line with a hint. Exit status: 0; 1 for a failure; 2 for wrong usage.",
        "Every setting is an environment variable ([settings](settings.md)).",
        "",
    )
    with click.Context(commands, info_name="hitledger") as context:
        for name in sorted(COMMANDS.keys() - HIDDEN):
            command = commands.get_command(context, name)
            assert command is not None
            with click.Context(command, info_name=name, parent=context, max_content_width=100) as inner:
                text = command.get_help(inner)
            yield from (f"## hitledger {name}", "", "```text", text.rstrip(), "```", "")


def http_api() -> Iterator[str]:
    """Yield the page of the HTTP API, from its OpenAPI document."""
    document = openapi()
    schemas = document["components"]["schemas"]
    yield from (
        "# HTTP API",
        "",
        "The service describes itself at `/openapi.json` (OpenAPI 3.1), and `/docs/` lets you try it. Errors are",
        "`application/problem+json` ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) with the request's id.",
        "",
    )
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield from endpoint(method, path, item[method], schemas)


def openapi() -> dict[str, Any]:
    """Return the service's OpenAPI document; no server is asked for it."""
    logging.getLogger("hitledger").setLevel(logging.CRITICAL)  # that the ledger is away is no news here
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(redis_url="unix:///nowhere", data_dir=Path(folder)))
        try:
            document: dict[str, Any] = app.test_client().get("/openapi.json").get_json()
        finally:
            app.extensions["hitledger"].counter.stop()
    return document


def endpoint(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    """Yield one endpoint: what it takes, and what it answers."""
    yield from (f"## `{method.upper()} {path}`", "", f"{operation.get('summary', '').rstrip('.')}.", "")
    if parameters := operation.get("parameters"):
        yield from ("| parameter | in | meaning |", "|---|---|---|")
        for each in parameters:
            meaning = each.get("description") or each["schema"].get("description", "")
            yield f"| `{each['name']}` | {each['in']} | {meaning} |"
        yield ""
    yield from ("| status | answer |", "|---|---|")
    for status, answer in operation["responses"].items():
        yield f"| {status} | {told(answer)} |"
    yield ""
    for name in sorted({named(answer) for answer in operation["responses"].values()} - {"", "Problem"}):
        yield from fields(schemas[name.split("[")[0]], name)


def told(answer: dict[str, Any]) -> str:
    """Return an answer's description, and what it is made of."""
    kinds = ", ".join(f"`{kind}`" for kind in answer.get("content", {}))
    return " ".join(filter(None, [answer.get("description", ""), kinds]))


def named(answer: dict[str, Any]) -> str:
    """Return the name of the schema of an answer's body; nothing where it has none."""
    for content in answer.get("content", {}).values():
        reference: str = content.get("schema", {}).get("$ref", "")
        if reference:
            return reference.rpartition("/")[2]
    return ""


def fields(schema: dict[str, Any], name: str) -> Iterator[str]:
    """Yield a table of an object's fields."""
    if "properties" not in schema:
        return
    yield from (f"`{name}`:", "", "| field | type | meaning |", "|---|---|---|")
    for field, each in schema["properties"].items():
        yield f"| `{field}` | {type_of(each)} | {each.get('description', '')} |"
    yield ""


def type_of(schema: dict[str, Any]) -> str:
    """Return a schema's type as a word or two."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(type_of(each) for each in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {type_of(schema['items'])}"
    return str(schema.get("type", "any"))
