"""Options that stand for settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

import click

from hitledger.settings import Settings, variable_of

Command = TypeVar("Command", bound=Callable[..., Any])


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
