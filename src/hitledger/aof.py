"""Not posting to a server on whose AOF a torn batch may lie.

Some servers (`ServerFacts.keeps_torn_batches`) that crash in the middle of writing a batch
cut the AOF within it when they start, and leave its beginning there. What is posted then is
written into the open transaction, and comes back wrong after the next restart. A rewrite of
the AOF before the first batch leaves nothing of it; so does `aof-load-truncated no`, with
which such a server does not start at all until somebody has repaired the file.

`demand_sound_aof` runs on every new posting connection, so that there is no moment between
a server's restart and the first batch at which it has not run.
"""

from __future__ import annotations

import time
from typing import Any

import redis
from redis.connection import AbstractConnection
from redis.exceptions import NoPermissionError

from hitledger.servers import ServerFacts

REWRITE_SECONDS = 1.0
"""How long a new connection waits for a rewrite; a longer one is waited for by posting again."""
PAUSE_SECONDS = 0.01


class NotReadyError(redis.ConnectionError):
    """The server must not be posted to yet. The text may be shown to an operator."""


class UnsafeServerError(redis.ResponseError):
    """The server must not be posted to until an operator has changed it. The text is the remedy."""


def demand_sound_aof(connection: AbstractConnection) -> None:
    """See that the server's AOF was rewritten since it started, where that matters; have it done.

    Raises:
        NotReadyError: the rewrite goes on, or has failed.
        UnsafeServerError: this user may neither ask for a rewrite nor see that none is needed.
    """
    deadline = time.monotonic() + REWRITE_SECONDS
    asked = False
    while not _is_sound(facts := _facts(connection)):
        if not asked and not facts.aof_rewriting:
            if _refuses_truncated(connection):
                return
            _start_rewrite(connection)
            asked = True
        if time.monotonic() >= deadline:
            raise NotReadyError("The ledger's server rewrites its append-only file after a start.")
        time.sleep(PAUSE_SECONDS)


def _is_sound(facts: ServerFacts) -> bool:
    if not facts.aof or not facts.keeps_torn_batches:
        return True
    return facts.aof_rewrites_done > 0 and facts.aof_rewrite_ok


def _refuses_truncated(connection: AbstractConnection) -> bool:
    try:
        return bool(_ask(connection, "CONFIG", "GET", "aof-load-truncated") == ["aof-load-truncated", "no"])
    except redis.ResponseError:
        return False


def _start_rewrite(connection: AbstractConnection) -> None:
    try:
        _ask(connection, "BGREWRITEAOF")
    except NoPermissionError:
        raise UnsafeServerError("Allow this user BGREWRITEAOF, or set aof-load-truncated to no there.") from None
    except redis.ResponseError as error:
        if "in progress" not in str(error):  # another poster was faster
            raise NotReadyError(f"The ledger's server cannot rewrite its append-only file: {error}") from error


def _facts(connection: AbstractConnection) -> ServerFacts:
    text = str(_ask(connection, "INFO"))
    return ServerFacts.of(dict(line.split(":", 1) for line in text.splitlines() if ":" in line))


def _ask(connection: AbstractConnection, *words: str) -> Any:
    connection.send_command(*words, check_health=False)
    return connection.read_response()
