"""Who asks: a person, a program, or nobody in particular, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flask import g

from hitledger.rights import RIGHTS

Way = Literal["nobody", "anybody", "key", "token", "session"]


@dataclass(frozen=True)
class Principal:
    """Who a request is from. `id` is stable, for limits and logs; `name` is for people."""

    id: str
    name: str
    rights: frozenset[str]
    way: Way

    def may(self, *rights: str) -> bool:
        """Tell whether one of these rights is held."""
        return not self.rights.isdisjoint(rights)

    @property
    def signed_in(self) -> bool:
        """True for somebody who can sign out."""
        return self.way == "session"


NOBODY = Principal("", "", frozenset(), "nobody")
"""Nobody that is known."""
ANYBODY = Principal("", "", frozenset(RIGHTS), "anybody")
"""Everybody, where authentication is off."""


def principal() -> Principal:
    """Return who this request is from; `NOBODY` for endpoints that are open and do not look."""
    found: Principal = g.get("principal", NOBODY)
    return found
