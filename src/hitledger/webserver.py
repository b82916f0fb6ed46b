"""The web processes: Granian, which starts, watches and replaces its workers.

Guarantee: when `run_web` returns or raises, its workers are gone, and what they had
journalled is in the ledger, if that answered in time; otherwise it stays in the journal.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
from contextlib import suppress
from functools import partial
from pathlib import Path

from flask import Flask, Response
from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels

from hitledger.logs import configure_logging
from hitledger.serve import address_of, post_what_is_left, require_watchfiles
from hitledger.settings import Settings
from hitledger.supervision import die_with
from hitledger.web import create_app
from hitledger.web.requests import request_fields

BACKLOG_CONNECTIONS = 2048
MOST_CONNECTIONS = 16_384
"""Open connections that a worker takes, idle ones included; more wait in the backlog."""
MOST_HEAD_BYTES = 64 * 1024
"""Of one request: Granian's own 400 KB for each connection would be 6 GB for all of them."""
SPARE_DESCRIPTORS = 256
"""What a worker keeps of its descriptors for the journal, the ledger and its libraries."""
ANSWER_SECONDS = 3
"""How long requests that are being answered may take after SIGTERM."""
M_ARENA_MAX = -8
"""From malloc(3) of glibc."""
ARENAS = 2
PACKAGE = Path(__file__).parent
OUR_LOGGING = {"handlers": {}, "loggers": {"_granian": {"handlers": [], "propagate": True}}}
"""Granian's own words go where ours go."""


def run_web(settings: Settings, *, dev: bool = False) -> None:
    """Serve until SIGTERM or SIGINT; then post what is left.

    With `dev`, the workers start anew whenever a file of the package changes.

    Raises:
        SystemExit: workers died again and again; the process manager starts all of them anew.
    """
    if dev:
        require_watchfiles()
        # A forked worker would have the modules of this process, as they were.
        multiprocessing.set_start_method("spawn")
    server = Granian(
        "hitledger:create_app",
        address=address_of(settings.host),
        port=settings.port,
        interface=Interfaces.WSGI,
        workers=settings.workers,
        blocking_threads=settings.threads,
        http=HTTPModes.http1,
        websockets=False,
        http1_settings=HTTP1Settings(max_buffer_size=MOST_HEAD_BYTES),
        backlog=BACKLOG_CONNECTIONS,
        # A connection counts although it is idle: Granian's own default, the backlog's part of
        # each worker, lets some thousand idle ones shut everybody else out.
        backpressure=most_connections(),
        # Its warnings are about numbers of threads and processes, which are settings here.
        log_level=LogLevels.error,
        log_dictconfig=OUR_LOGGING,
        respawn_failed_workers=True,
        workers_kill_timeout=ANSWER_SECONDS,
        reload=dev,
        reload_paths=[PACKAGE],
    )
    try:
        server.serve(target_loader=partial(load_app, settings, os.getpid()), wrap_loader=False)
    finally:
        post_what_is_left(settings)


def most_connections() -> int:
    """Allow this process and its workers the descriptors that they may need; return the connections for each.

    Connections never take the last descriptors: without one, the journal could not go on to its next file.
    """
    most = MOST_CONNECTIONS + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < most:
        soft = most if hard == resource.RLIM_INFINITY else min(hard, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = most if soft == resource.RLIM_INFINITY else min(soft, most)
    return max(1, room - SPARE_DESCRIPTORS)


def share_memory() -> None:
    """Have the threads of this process share memory that they have given back.

    By default, glibc keeps what each thread needed most: sixteen times one large page. Under
    the interpreter's lock, threads hardly wait for each other's arenas. Other C libraries have
    none. Arrow's own pools, for exports as Parquet, would keep more than a hundred megabytes.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


def load_app(settings: Settings, parent: int) -> Flask:
    """Build the application, in a worker that ends when its parent does."""
    die_with(parent)
    share_memory()
    configure_logging(settings, request_fields)
    app = create_app(settings)
    app.after_request(_name_service)
    return app


def _name_service(response: Response) -> Response:
    # In the place of Granian's own name, which it leaves out where the application gives one.
    response.headers["Server"] = "hitledger"
    return response
