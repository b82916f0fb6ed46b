"""A real Chromium for the tests, kept from talking to anyone but the service."""

from __future__ import annotations

import os
import shutil

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str | None:
    """Return where Chromium is: what CHROMIUM says, or Debian's; None where there is none."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium")
