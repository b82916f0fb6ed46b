"""Options that several commands have: those that stand for settings, and those that choose a report's rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

import click

from hitledger.settings import Settings, variable_of

Command = TypeVar("Command", bound=Callable[..., Any])
_NAMES = {"start": "from", "end": "to"}
"""Options whose parameters have words of Python for names."""
_ROWS = (
    (("--period",), "all, hour, day or month."),
    (("--at",), "Which of them."),
    (("--from", "start"), "From this hour or day on, instead of a period ..."),
    (("--to", "end"), "... up to, not including, this one."),
    (("--tz",), "IANA time zone of these times."),
    (("--prefix",), "Only URLs that begin so."),
    (("--under",), "A section's children, with their totals."),
    (("--group",), "Sections of so many segments, `patterns`, or `route`."),
    (("--search",), "Only URLs that contain this."),
)


def setting_options(*names: str, cut: str = "") -> Callable[[Command], Command]:
    """Give a command one option for each of these settings, named as they are but for a beginning that is cut.

    Their texts come from `Settings`.
    """
    by_name = {each.name: each for each in fields(Settings)}

    def add(command: Command) -> Command:
        for name in reversed(names):
            each = by_name[name]
            command = click.option(
                "--" + name.removeprefix(cut).replace("_", "-"),
                variable_of(each),
                metavar=each.metadata["unit"].upper() or "VALUE",
                help=f"{each.metadata['help']} [{variable_of(each)}]",
            )(command)
        return command

    return add


def environment_with(options: Mapping[str, str | None]) -> dict[str, str]:
    """Return the environment in which options have been put over their variables."""
    return {**os.environ, **{name: text for name, text in options.items() if text is not None}}


def row_options(command: Command) -> Command:
    """Give a command an option for each parameter of `/stats/` that chooses rows."""
    for names, text in reversed(_ROWS):
        command = click.option(*names, help=text)(command)
    return command


def row_parameters(given: Mapping[str, str | None]) -> dict[str, str]:
    """Return what `row_options` were given, as the parameters of `/stats/`."""
    return {_NAMES.get(name, name): text for name, text in given.items() if text is not None}
