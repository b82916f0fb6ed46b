"""For those who prefer gunicorn: `gunicorn 'hitledger:create_app()'` in this folder reads it.

The ledger must be set, since there is nobody to run an embedded one; a worker for test runs
is `hitledger worker`.
"""

from hitledger.errors import SettingsError
from hitledger.logs import configure_logging
from hitledger.serve import post_what_is_left
from hitledger.settings import Settings
from hitledger.web.requests import request_fields

try:
    settings = Settings.from_environment()
except SettingsError as error:
    raise SystemExit(f"hitledger: {error}") from None
if settings.redis_url is None:
    raise SystemExit(
        "hitledger: No ledger is set. Set HITLEDGER_REDIS_URL; only `hitledger serve` runs an embedded one."
    )

host = f"[{settings.host}]" if ":" in settings.host else settings.host
bind = f"{host}:{settings.port}"
worker_class = "gthread"
workers = settings.workers
threads = settings.threads
graceful_timeout = 5
# The most that gunicorn takes: what is longer it refuses itself, uncounted, instead of leaving
# it to be answered with 414 and counted under (oversized).
limit_request_line = 8190


def on_exit(server: object) -> None:
    """Post what the workers, all gone now, have left in the journal."""
    del server
    post_what_is_left(settings)


def post_fork(server: object, worker: object) -> None:
    """Give the lines of a worker's own modules their form; gunicorn's are set by its own options."""
    del server, worker
    configure_logging(settings, request_fields)
