"""What browsers are told about our pages, and the hosts for which requests are answered."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Blueprint, Flask, Response, request
from werkzeug.sansio.utils import host_is_trusted

from hitledger.settings import Settings
from hitledger.web.problems import problem
from hitledger.web.proxies import is_https

PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    # For browsers that know no frame-ancestors.
    "X-Frame-Options": "DENY",
}
YEAR_SECONDS = 365 * 86_400
PROBES = ("/livez", "/readyz", "/metrics")
"""These are asked for by address, from within."""


def protect_pages(blueprint: Blueprint, settings: Settings) -> None:
    """Send what keeps a browser from running, framing or leaking a page; over HTTPS, also to stay with it."""

    @blueprint.after_request
    def protect(response: Response) -> Response:
        response.headers.update(PAGE_HEADERS)
        if is_https(request.environ, settings.trusted_proxies):
            response.headers["Strict-Transport-Security"] = f"max-age={YEAR_SECONDS}"
        return response


def install_trusted_hosts(app: Flask, settings: Settings) -> None:
    """Answer only for the hosts that the settings name, where they do: no page is read by way of another's name.

    Test runs come by the service's own address, which is trusted too.
    """
    if not settings.trusted_hosts:
        return
    own = urlsplit(settings.own_url).netloc.lower()

    @app.before_request
    def check_host() -> None:
        host = request.environ.get("HTTP_HOST", "").lower()
        if host == own or host_is_trusted(host, settings.trusted_hosts):
            return
        if request.environ.get("PATH_INFO") not in PROBES:
            problem(421, "This service does not answer for the host that the request names.")
