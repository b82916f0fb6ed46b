"""What a process that was forked off must make anew: descriptors, locks and threads that are its parent's.

Guarantee: every object that asked is told once in each child, before the fork returns there.
"""

from __future__ import annotations

import logging
import os
import weakref
from typing import Protocol

log = logging.getLogger("hitledger.forks")


class Forked(Protocol):
    """What wants to be told of forks."""

    def after_fork_in_child(self) -> None:
        """Let go of what is the parent's, and begin anew."""


def tell_of_forks(each: Forked) -> None:
    """Have an object told of forks for as long as it lives."""
    _living.add(each)


def _after_fork_in_child() -> None:
    for each in list(_living):
        try:
            each.after_fork_in_child()
        except BaseException:  # whatever one of them meets, the others must begin anew
            log.exception("after a fork, a %s has not begun anew", type(each).__name__)


_living: weakref.WeakSet[Forked] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork_in_child)
