"""A page for people who follow a wrong link; programs get the problem that every other error is."""

from __future__ import annotations

from flask import Flask, Response, render_template, request
from werkzeug.exceptions import HTTPException, NotFound

from hitledger.web.problems import http_problem
from hitledger.web.requests import is_page_wanted
from hitledger.web.safety import PAGE_HEADERS


def install_lost_page(app: Flask) -> None:
    """Answer browsers with a page where the application has nothing."""

    @app.errorhandler(404)
    def lost(error: NotFound) -> Response | HTTPException:
        if request.endpoint is not None or not is_page_wanted():
            return http_problem(error)
        return Response(render_template("lost.html"), 404, {**PAGE_HEADERS, "Cache-Control": "no-store"})
