"""The sign-in cookie: who has signed in, signed with a key of this service's own.

Flask's signed cookie, in its strictest dress: HttpOnly, SameSite=Lax (Strict would hold it back
when the issuer sends the browser here), and where browsers come by https also Secure and named
`__Host-`, so that no other host of the domain can set it. It holds who somebody is, what they
may do and until when; requests to /api/ never look at it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from flask import Flask, Request, session
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface

from hitledger.errors import SettingsError
from hitledger.rights import RIGHTS
from hitledger.settings import Settings
from hitledger.web.auth.principal import NOBODY, Principal

SHORTEST_KEY = 32


class Sessions(SecureCookieSessionInterface):
    """Flask's signed cookies, by SHA-256, and none for the requests that are counted."""

    digest_method = staticmethod(hashlib.sha256)

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """Read the cookie, where it may matter."""
        return None if request.path.startswith("/api") else super().open_session(app, request)


def install_sessions(app: Flask, settings: Settings) -> None:
    """Let an application keep sign-ins in a cookie. Raises SettingsError."""
    first, *others = signing_keys(settings)
    by_https = (settings.public_url or settings.own_url).startswith("https:")
    app.config.update(
        SECRET_KEY=first,
        SECRET_KEY_FALLBACKS=others,
        SESSION_COOKIE_NAME="__Host-hitledger" if by_https else "hitledger",
        SESSION_COOKIE_SECURE=by_https,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_PATH="/",
        PERMANENT_SESSION_LIFETIME=timedelta(hours=settings.session_hours),
        SESSION_REFRESH_EACH_REQUEST=False,
    )
    app.session_interface = Sessions()


def signing_keys(settings: Settings) -> list[str]:
    """Return the keys that sign-ins are signed with, the one for new ones first. Raises SettingsError."""
    text = settings.secret("session_key")
    keys = [line.strip() for line in (text or _own_key(settings.data_dir)).splitlines() if line.strip()]
    if not keys or min(map(len, keys)) < SHORTEST_KEY:
        raise SettingsError(f"A key that signs sign-ins has at least {SHORTEST_KEY} characters.", "Make it longer.")
    return keys


def _own_key(data_dir: Path) -> str:
    """Return this host's key; made by whichever process comes first, whole or not at all."""
    path = data_dir / "session.key"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            number, name = tempfile.mkstemp(dir=data_dir, prefix="session-")
            try:
                with os.fdopen(number, "w") as file:
                    file.write(secrets.token_urlsafe(48) + "\n")
                    file.flush()
                    os.fsync(number)  # a power cut must not leave an empty key under the name
                with suppress(FileExistsError):
                    os.link(name, path)
            finally:
                Path(name).unlink()
        return path.read_text("ascii")
    except OSError as error:
        raise SettingsError(
            f"The key that signs sign-ins cannot be kept in {data_dir}: {error.strerror}.",
            "Set HITLEDGER_SESSION_KEY_FILE, or HITLEDGER_DATA_DIR to a folder that you may write to.",
        ) from error


def begin(content: dict[str, object]) -> None:
    """Sign somebody in: nothing of an earlier session stays."""
    session.clear()
    session.update(content)
    session.permanent = True


def signed_in(by_key_id: Callable[[str], Principal]) -> Principal:
    """Return whom the cookie stands for; `NOBODY` where there is none, or none that is good."""
    if "key" in session:
        return by_key_id(str(session["key"]))
    if session.get("until", 0) <= time.time():
        return NOBODY
    rights = frozenset(session["rights"]) & RIGHTS.keys()
    return Principal(str(session["id"]), str(session["name"]), rights, "session")
