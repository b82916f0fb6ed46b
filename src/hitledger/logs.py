"""What the service's processes say about themselves: one line an event, on standard error."""

from __future__ import annotations

import logging


def configure_logging() -> None:
    """Send warnings and errors to standard error; again is fine, and so is after somebody else."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s",
    )
