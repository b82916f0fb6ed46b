"""PING a server without pause for others to see how long they would wait; `python -m bench.pings SOCKET`.

Ends when standard input does, and prints the milliseconds of each as JSON. It runs in a process of its
own: in another's, it would mostly measure waiting for that one's interpreter.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import Valkey

from bench.common import ROOT

PAUSE_SECONDS = 0.002


@contextmanager
def pinging(server: Valkey) -> Iterator[list[float]]:
    """Have a server asked for PONGs meanwhile; afterwards the list has the milliseconds that each took."""
    command = [sys.executable, "-m", "bench.pings", str(server.socket)]
    found: list[float] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        try:
            yield found
        finally:
            output, _ = process.communicate()
            found += json.loads(output)


def main() -> None:
    """PING until standard input ends."""
    found = []
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(sys.argv[1])
        while not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
            began = time.perf_counter()
            connection.sendall(b"PING\r\n")
            assert connection.recv(64).startswith(b"+PONG")
            found.append((time.perf_counter() - began) * 1000)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
