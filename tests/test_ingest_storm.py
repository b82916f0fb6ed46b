"""`hitledger ingest` under fire: real processes, killed with SIGKILL, and the real nginx."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hitledger.audit import audit
from hitledger.ingest.formats import format_of
from hitledger.ingest.run import Options, Run
from hitledger.ingest.tally import Tally
from hitledger.ingest.targets import Names
from hitledger.ingest.times import Minutes
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
from tests.ingest_storm import IngestStorm
from tests.logs import counts_of
from tests.ports import free_port
from tests.support import wait_until

NGINX = """\
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  log_format own '$time_iso8601|$status|$request_uri';
  log_format object escape=json '{{"time":"$time_iso8601","status":$status,"request":"$request"}}';
  access_log {folder}/combined.log combined;
  access_log {folder}/own.log own;
  access_log {folder}/object.log object;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  large_client_header_buffers 4 16k; client_header_timeout 2s;
  server {{ listen 127.0.0.1:{port}; merge_slashes off; location / {{ return 200 "ok"; }}
    location /gone {{ return 404; }} }}
}}
"""

REQUESTS = (
    b"GET /plain HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /plain?page=2&x=%22 HTTP/1.1\r\nHost: h\r\n\r\n",
    b'GET /quo"te\\back HTTP/1.1\r\nHost: h\r\nUser-Agent: a "b" [c] \\x22\r\n\r\n',
    "GET /caf\u00e9/\u2603 HTTP/1.1\r\nHost: h\r\n\r\n".encode(),
    b"GET /byte\xff\xfe HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /caf%c3%a9/%E2%98%83 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET http://example.org:8080/absolute?q HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET //double//slash/ HTTP/1.1\r\nHost: h\r\n\r\n",
    b"DELETE /gone/for/good HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /" + b"8" * 8000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET /user HTTP/1.1\r\nHost: h\r\nAuthorization: Basic YSBbYjp4\r\n\r\n",  # a [b:x
    b'GET /forged HTTP/1.1\r\nHost: h\r\nReferer: " 200 1\\n1 - [23/Nov/2026:23:00:00 +0000] "GET /x HTTP/1.1\r\n\r\n',
)
EXPECTED = {
    "/plain": 2, "/quo%22te%5Cback": 1, "/caf%C3%A9/%E2%98%83": 2, "/byte%FF%FE": 1, "/absolute": 1,
    "//double//slash/": 1, "(unmatched)": 1, "(oversized)": 1, "/": 1, "/forged": 1, "/user": 1,
}  # fmt: skip
GARBAGE = (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\r\n\r\nnonsense\r\n\r\n")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_storm_of_kills_leaves_every_line_counted_once(
    settings: Settings, store: LedgerStore, tmp_path: Path, seed: int
) -> None:
    """Logs that grow, rotate, begin alike and are packed, ingested by runs that are killed, count as the model does."""
    folder = tmp_path / "logs"
    folder.mkdir()
    environment = {"HITLEDGER_REDIS_URL": str(settings.redis_url), "HITLEDGER_KEY_PREFIX": settings.key_prefix}
    storm = IngestStorm(folder, environment, seed)
    expected = storm.run(kills=25, most_seconds=1.5)
    assert storm.kills >= 25
    assert counts_of(store) == expected
    assert audit(settings, store).differences == []


@contextmanager
def nginx(folder: Path, port: int) -> Iterator[None]:
    """Run nginx in a folder of the test's own."""
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(binary).exists():
        pytest.skip("nginx is not installed")
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port))
    command = [binary, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(command) as server:
        try:
            wait_until(lambda: _answers(port))
            yield
        finally:
            server.terminate()
            server.wait(20)


def _answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def _send(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(65536)


@pytest.mark.slow
def test_what_the_real_nginx_logs_counts_as_it_was_sent(tmp_path: Path) -> None:
    """Hostile request lines come through nginx's escapes: quotes, backslashes, UTF-8, stray bytes, 8 kB, forgeries."""
    port = free_port()
    with nginx(tmp_path, port):
        for request in REQUESTS:
            assert _send(port, request).startswith(b"HTTP/1.1")
        for request in GARBAGE:
            _send(port, request)
    for name, form in (("combined", None), ("object", None), ("own", "$time_iso8601|$status|$request_uri")):
        found, bad = _counts(tmp_path / f"{name}.log", form)
        assert found == EXPECTED, name
        assert bad >= len(GARBAGE), name


def _counts(path: Path, text: str | None) -> tuple[dict[str, int], int]:
    report = Run(Settings(), None, Options(format_of(text) if text else None)).ingest(path)
    assert report.trouble == ""
    tally = Tally(format_of(text or report.format), Names(Settings()), Minutes())
    tally.add(path.read_bytes())
    found: dict[str, int] = {}
    for table in tally.hits().values():
        for url, count in table.items():
            found[url] = found.get(url, 0) + count
    return found, tally.account.bad.total()
