"""What the service is made of: listed in a bill of materials, and asked about for known vulnerabilities."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PINNED = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
VICTIM = "flask"


def audit(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the audit as the public workflow does."""
    command = [sys.executable, str(ROOT / "tools" / "audit-dependencies"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def advisories() -> Iterator[str]:
    """The address of an advisory source (OSV's API) that knows one vulnerability."""

    class Source(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Answer a question about one version of a package."""
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            affected = [
                {"package": {"name": VICTIM, "ecosystem": "PyPI"},
                 "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99"}]}]}
            ]  # fmt: skip
            known = {"id": "TEST-1", "details": "A test's.", "published": "2026-01-01T00:00:00Z", "affected": affected}
            body = json.dumps({"vulns": [known]} if asked["package"]["name"] == VICTIM else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Source) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/query"
        server.shutdown()


@pytest.mark.slow
def test_a_known_vulnerability_fails_the_audit(advisories: str) -> None:
    """Each is named with its package, version and what fixes it; every pinned package is asked about."""
    done = audit("--vulnerability-service", "osv", "--osv-url", advisories)
    assert f"{VICTIM} {PINNED[VICTIM]}: TEST-1, fixed in: 99" in done.stdout.lower().replace("test-1", "TEST-1")
    assert done.stdout.splitlines()[-1].endswith(" 1 known vulnerabilities.")
    assert done.returncode == 1


@pytest.mark.slow
def test_a_source_that_cannot_be_reached_is_said_so() -> None:
    """Nothing was audited, and that is what is said; it is no failure."""
    done = audit("--vulnerability-service", "osv", "--osv-url", "http://127.0.0.1:1/query")
    assert done.stdout.startswith("NOT AUDITED: ")
    assert done.returncode == 0


@pytest.mark.slow
def test_the_bill_of_materials_is_complete(tmp_path: Path) -> None:
    """A CycloneDX document with every package that the image installs, at its version, with its hashes."""
    file = tmp_path / "sbom.json"
    options = ["--pyproject", "pyproject.toml", "--output-reproducible", "--output-file", str(file)]
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", "requirements.txt", *options]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    found = json.loads(file.read_text())
    assert found["bomFormat"] == "CycloneDX"
    assert found["metadata"]["component"]["name"] == "hitledger"
    assert {each["name"]: each["version"] for each in found["components"]} == PINNED
    assert all("hashes" in json.dumps(each) for each in found["components"])
