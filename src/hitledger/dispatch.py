"""Scripts and commands on their way to the shards: one pipeline a server, an answer for each.

Guarantee: a server that fails, or a shard that nobody is in charge of, spoils its own answers
and no others. Nothing is sent twice but what a server refused for want of a script.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any

import redis
from redis.client import NEVER_DECODE
from redis.exceptions import NoScriptError

from hitledger.connections import as_ledger_error
from hitledger.errors import LedgerError

CONFIRM_MS = 500
"""How long a WAITAOF for the server's own disk may take."""
REPLICAS_CONFIRM_MS = (20, 100, 1000)
"""How long to wait for replicas, in as many tries, all within what a command may take. A replica tells how far its
disk is when it is asked, which a WAITAOF does as it begins, and else once a second: asked in the same breath as it is
sent the write, it is not that far yet."""

Command = tuple[str | int, ...]
"""A command's words."""
Client = Callable[[int], redis.Redis]
"""The client of a shard; raises LedgerError where nobody is in charge of it."""


class Script:
    """One Lua file of this package, called by its digest."""

    def __init__(self, name: str) -> None:
        self.text = files("hitledger").joinpath("lua", f"{name}.lua").read_text("utf-8")
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, client: redis.Redis, keys: Sequence[str], arguments: Sequence[str | int]) -> object:
        """Run it now, loading it where the server does not know it yet."""
        try:
            return client.evalsha(self.sha, len(keys), *keys, *arguments)
        except NoScriptError:
            client.script_load(self.text)
            return client.evalsha(self.sha, len(keys), *keys, *arguments)


@cache
def script(name: str) -> Script:
    """Return the script of that name, read once."""
    return Script(name)


def send(client_of: Client, calls: Sequence[tuple[int, Command]], *, raw: bool = False) -> list[Any]:
    """Send commands to shards; return the answers in order, with what went wrong among them.

    An error is a redis.RedisError, OSError or LedgerError. `raw` leaves bytes as they are.
    """
    answers: list[Any] = [None] * len(calls)
    by_client: dict[int, tuple[redis.Redis, list[int]]] = {}
    for index, (shard, _) in enumerate(calls):
        try:
            client = client_of(shard)
        except LedgerError as error:
            answers[index] = error
        else:
            by_client.setdefault(id(client), (client, []))[1].append(index)
    for client, indexes in by_client.values():
        for index, answer in zip(indexes, send_together(client, [calls[i][1] for i in indexes], raw=raw), strict=True):
            answers[index] = answer
    return answers


def send_together(
    client: redis.Redis, commands: Sequence[Command], *, raw: bool = False, at_one_moment: bool = False
) -> list[Any]:
    """Send commands to one server in one go, on one connection; the answers as `send` returns them.

    `at_one_moment`: nobody else's command comes between them. In a cluster they must be of one slot.
    """
    options: dict[str, Any] = {NEVER_DECODE: True} if raw else {}
    pipeline = client.pipeline(transaction=at_one_moment)
    for command in commands:
        pipeline.execute_command(*command, **options)
    try:
        return pipeline.execute(raise_on_error=False)
    except (redis.RedisError, OSError) as error:
        # Whether any of them was carried out, nobody knows.
        return [error] * len(commands)


def send_scripts(
    client_of: Client, calls: Sequence[tuple[int, Command]], scripts: Sequence[str], *, raw: bool = False
) -> list[Any]:
    """Do as `send` does, and once more what a server refused because it did not know the script."""
    answers = send(client_of, calls, raw=raw)
    unknown = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
    if unknown:
        shards = {calls[index][0] for index in unknown}
        send(client_of, [(shard, ("SCRIPT LOAD", script(name).text)) for shard in shards for name in scripts])
        again = send(client_of, [calls[index] for index in unknown], raw=raw)
        for index, answer in zip(unknown, again, strict=True):
            answers[index] = answer
    return answers


def send_at_once(client: redis.Redis, commands: Sequence[Command], scripts: Sequence[str]) -> list[Any]:
    """Do as `send_together` does at one moment, and once more where the server did not know a script."""
    answers = send_together(client, commands, at_one_moment=True)
    if any(isinstance(answer, NoScriptError) for answer in answers):
        send_together(client, [("SCRIPT LOAD", script(name).text) for name in scripts])
        answers = send_together(client, commands, at_one_moment=True)
    return answers


def error_in(answer: object) -> LedgerError | None:
    """Return the ledger's own error where an answer of `send` is one."""
    if isinstance(answer, LedgerError):
        return answer
    return as_ledger_error(answer) if isinstance(answer, Exception) else None


def confirm_on(client: redis.Redis, commands: Sequence[Command], replicas: int) -> bool:
    """Have one server write watermarks again and say that they are durable."""
    waits: list[Command] = [("WAITAOF", 1, 0, CONFIRM_MS)]
    waits += [("WAITAOF", 1, replicas, milliseconds) for milliseconds in REPLICAS_CONFIRM_MS if replicas]
    answers = send_together(client, [*commands, *waits])
    written, durable = answers[: len(commands)], answers[-1]
    if any(isinstance(answer, NoScriptError) for answer in written):
        # What WAITAOF said is worth nothing: nothing was written. The caller comes again.
        send_together(client, [("SCRIPT LOAD", script("post").text)])
        return False
    if isinstance(durable, redis.ResponseError) and "appendonly is disabled" in str(durable):
        # Nothing is ever durable there: it was said at the start, and replicas are all that can be asked for.
        *written, copies = send_together(client, [*commands, ("WAIT", replicas, CONFIRM_MS)])
        durable = [1, copies]
    if any(not isinstance(answer, list) or answer[0] != "duplicate" for answer in written):
        return False
    return isinstance(durable, list) and durable[0] >= 1 and durable[1] >= replicas
