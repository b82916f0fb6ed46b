"""`python -m hitledger` is `hitledger`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or say in one line what it lacks: counting alone does without it."""
    try:
        from hitledger.cli import main as run  # noqa: PLC0415 - what it needs may not be installed

        run()
    except KeyboardInterrupt:  # before the command had begun
        sys.exit(130)
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("hitledger"):
            raise
        sys.exit(f"hitledger: The package {error.name} is not installed. Install hitledger[server].")


if __name__ == "__main__":
    main()
