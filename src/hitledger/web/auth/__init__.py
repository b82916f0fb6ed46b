"""Who may do what: one guard before every endpoint, and the ways of coming in."""

from __future__ import annotations

from importlib.util import find_spec

from flask import Blueprint, Flask

from hitledger.apikeys import ApiKeys, KeyChecker
from hitledger.errors import SettingsError
from hitledger.web.auth.guard import Guard
from hitledger.web.auth.pages import key_pages
from hitledger.web.auth.sessions import install_sessions
from hitledger.web.forms import Forms
from hitledger.web.services import Services

OIDC_NEEDS = ("authlib", "joserfc", "requests")


def install_auth(app: Flask, services: Services) -> list[Blueprint]:
    """Guard an application's endpoints as the settings say; return the pages for signing in, to be registered.

    Raises:
        SettingsError: the settings let nobody decide who may come in, or a secret cannot be read.
    """
    settings = services.settings
    mode = settings.auth_mode
    keys = KeyChecker(ApiKeys(services.store))
    if mode != "oidc":
        Guard(settings, keys, None).install(app)
        if mode == "none":
            return []
        install_sessions(app, settings)
        return [key_pages(keys, Forms(settings))]
    if not all(map(find_spec, OIDC_NEEDS)):
        raise SettingsError("HITLEDGER_AUTH=oidc needs packages that are missing.", "Install hitledger[oidc].")
    from hitledger.web.auth.issuer import Issuer  # noqa: PLC0415 - whose libraries only sign-in there needs
    from hitledger.web.auth.oidc import oidc_pages  # noqa: PLC0415 - as above
    from hitledger.web.auth.tokens import TokenChecker  # noqa: PLC0415 - as above

    issuer = Issuer(settings.oidc_issuer or "")
    tokens = TokenChecker(settings, issuer)
    Guard(settings, keys, tokens).install(app)
    install_sessions(app, settings)
    return [oidc_pages(settings, issuer, tokens)]
