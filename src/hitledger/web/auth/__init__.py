"""Who may do what: one guard before every endpoint, and the ways of coming in."""

from __future__ import annotations

from flask import Blueprint, Flask

from hitledger.apikeys import ApiKeys, KeyChecker
from hitledger.web.auth.guard import Guard
from hitledger.web.auth.pages import key_pages
from hitledger.web.auth.sessions import install_sessions
from hitledger.web.services import Services


def install_auth(app: Flask, services: Services) -> list[Blueprint]:
    """Guard an application's endpoints as the settings say; return the pages for signing in, to be registered.

    Raises:
        SettingsError: the settings let nobody decide who may come in, or a secret cannot be read.
    """
    settings = services.settings
    mode = settings.auth_mode
    keys = KeyChecker(ApiKeys(services.store))
    Guard(settings, keys, None).install(app)
    if mode == "none":
        return []
    install_sessions(app, settings)
    return [key_pages(keys)]
