"""web.observed: every request is noted once, whatever becomes of it and of its process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from hitledger.meters import Meters
from hitledger.web.observed import UNMATCHED_ROUTE, Observations, Observed

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
ENVIRON = {"REQUEST_METHOD": "GET", "PATH_INFO": "/x"}


def well(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer."""
    start_response("200 OK", [])
    return [b"one", b"two"]


def broken(_environ: dict[str, Any], _start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Break before any answer."""
    raise ZeroDivisionError


def ask(app: Application, observations: Observations) -> list[bytes]:
    """Ask as a server does, and return the body."""
    body = Observed(app, observations)(dict(ENVIRON), lambda *_: lambda _: None)
    found = list(body)
    body.close()  # type: ignore[attr-defined] # as PEP 3333 has it
    return found


def test_an_answer_goes_through_and_is_noted(tmp_path: Path) -> None:
    """The body is the application's; the request is in the meters as soon as anybody reads them."""
    meters = Meters(tmp_path)
    assert ask(well, Observations(meters)) == [b"one", b"two"]
    assert sum(meters.read()[f"http GET 200 {UNMATCHED_ROUTE}"][1:]) == 1
    meters.close()


def test_a_crash_is_a_500(tmp_path: Path) -> None:
    """What an application raises goes on to the server, and is noted as the 500 that the client sees."""
    meters = Meters(tmp_path)
    with pytest.raises(ZeroDivisionError):
        ask(broken, Observations(meters))
    assert sum(meters.read()[f"http GET 500 {UNMATCHED_ROUTE}"][1:]) == 1
    meters.close()


def test_a_forked_process_notes_its_own(tmp_path: Path) -> None:
    """What a process has noted and not measured yet is not measured again by one that is forked off it."""
    meters = Meters(tmp_path)
    observations = Observations(meters)
    ask(well, observations)
    child = os.fork()
    if child == 0:
        ask(well, observations)
        meters.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert sum(meters.read()[f"http GET 200 {UNMATCHED_ROUTE}"][1:]) == 2
    meters.close()
