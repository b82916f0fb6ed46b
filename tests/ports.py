"""Ports for servers of the tests: each belongs to one test process for as long as that lives.

A port that the kernel picks is anybody's again before the server that it was asked for listens: another
test's server may get it, or a client's own end, and one that tries to connect meanwhile may even meet
itself. So ports are taken from below those that the kernel gives out, and claimed.
"""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path

FIRST = 10_000
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""The first and the last port that the kernel gives out by itself."""
_claims: list[socket.socket] = []
"""Abstract sockets named after the ports: like these they are one network's, and go with their process."""


def free_port() -> int:
    """Return a port that nobody listens on, and that no other test process will."""
    past = max(int(RANGE.read_text().split()[0]), FIRST + 10_000)
    ports = range(FIRST, past)
    # Processes begin far from each other; what is left over from one that has just ended is not met at once.
    start = os.getpid() * 61 % len(ports)
    for port in itertools.chain(ports[start:], ports[:start]):
        if _claim(port) and _can_be_listened_on(port):
            return port
    raise AssertionError(f"no port from {FIRST} to {past} is free")


def _claim(port: int) -> bool:
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0hitledger-test-port-{port}")
    except OSError:
        claim.close()
        return False
    _claims.append(claim)
    return True


def _can_be_listened_on(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
