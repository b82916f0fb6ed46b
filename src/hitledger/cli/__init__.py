"""The command line: which commands there are, and how every one of them ends.

A command is a click command in one of this package's modules and a line in `COMMANDS`; its
module is imported only when it is wanted, so that each pays for its own imports. Output goes
to standard output; an error goes to standard error in one line, with a hint. Exit status: 0;
1 for a failure; 2 for wrong usage, settings included.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import NoReturn

import click

from hitledger.errors import HitledgerError, QueryError, SettingsError

COMMANDS = {
    "acl": "hitledger.cli.acl",
    "audit": "hitledger.cli.books",
    "doctor": "hitledger.cli.doctor",
    "export": "hitledger.cli.export",
    "ingest": "hitledger.cli.ingest",
    "intake": "hitledger.cli.intake",
    "keys": "hitledger.cli.keys",
    "post": "hitledger.cli.books",
    "reset": "hitledger.cli.books",
    "sections": "hitledger.cli.sections",
    "serve": "hitledger.cli.service",
    "settings": "hitledger.cli.about",
    "stats": "hitledger.cli.reports",
    "test": "hitledger.cli.test",
    "top": "hitledger.cli.top",
    "version": "hitledger.cli.about",
    "web": "hitledger.cli.web",
    "worker": "hitledger.cli.worker",
}
"""Where each command is: the function of that name in a module."""
HIDDEN = {"web"}
"""Commands of which the modules are not even looked at for `--help`."""


class Commands(click.Group):
    """Commands that are imported when they are wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return what `--help` shows."""
        del ctx
        return sorted(COMMANDS.keys() - HIDDEN)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(COMMANDS[cmd_name]), cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def commands() -> None:
    """Count every request a web service answers, by URL path, exactly."""


def main() -> NoReturn:
    """Run a command from `sys.argv` and exit with its status."""
    try:
        status = commands.main(prog_name="hitledger", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "hitledger"
        _fail(error.format_message(), f"See `{path} --help`.", 2)
    except click.ClickException as error:
        _fail(error.format_message(), "", 1)
    except click.Abort:
        sys.exit(130)
    except QueryError as error:
        _fail(f"The parameter {error.parameter} {error.message}", "", 2)
    except SettingsError as error:
        _fail(error.message, error.hint, 2)
    except HitledgerError as error:
        _fail(error.message, error.hint, 1)
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python must not write the rest at exit.
        sys.stdout = None
        sys.exit(1)
    except OSError as error:
        sys.stdout = None
        _fail(f"{error.filename or 'The output'}: {error.strerror or error}", "", 1)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, hint: str, status: int) -> NoReturn:
    end = "" if message.endswith((".", "?", "!")) else "."
    click.echo(" ".join(f"hitledger: {message}{end} {hint}".split()), err=True)
    sys.exit(status)
