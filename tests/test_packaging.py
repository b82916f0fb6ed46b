"""What `pip install hitledger` and `pip install hitledger[server]` give, from a wheel built of the sdist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from hitledger.ledger import LedgerStore
from hitledger.settings import Settings
from tests.processes import Running
from tests.support import free_port, wait_until

ROOT = Path(__file__).parent.parent

pytestmark = [pytest.mark.slow, pytest.mark.packaging]

COUNT_THREE = """
from hitledger import CountHits

def application(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]

app = CountHits(application)
for _ in range(3):
    body = app({"PATH_INFO": "/api/wheel/"}, lambda status, headers, exc_info=None: None)
    assert b"".join(body) == b"hello"
app.counter.stop()
"""


class Installed:
    """A clean environment with the wheel and what it asks for, at the lock file's versions."""

    def __init__(self, directory: Path, wheel: Path) -> None:
        self.directory = directory
        self._wheel = wheel
        self._constraints = directory.with_suffix(".txt")
        pins = re.findall(
            r"^[a-z0-9-]+==[^ ;]+(?: ;[^\\]+)?", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE
        )
        self._constraints.write_text("\n".join(pins))
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)

    def install(self, extra: str = "") -> None:
        """Install the wheel, with an extra if one is named."""
        options = ["--quiet", "--only-binary", ":all:", "--constraint", str(self._constraints)]
        done = self.run("python", "-m", "pip", "install", *options, f"{self._wheel}{extra}")
        assert done.returncode == 0, done.stderr

    def run(self, *words: str, settings: Settings | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, away from the checkout."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("HITLEDGER_", "PYTHON"))
        }
        if settings:
            environment["HITLEDGER_REDIS_URL"] = str(settings.redis_url)
            environment["HITLEDGER_DATA_DIR"] = str(settings.data_dir)
            environment["HITLEDGER_KEY_PREFIX"] = settings.key_prefix
        return subprocess.run(
            [str(self.directory / "bin" / words[0]), *words[1:]],
            cwd=self.directory, env=environment, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment of its own, without extras at first."""
    directory = tmp_path_factory.mktemp("packaging")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", directory], cwd=ROOT, check=True)
    (sdist,) = directory.glob("*.tar.gz")
    options = ["--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir", str(directory)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, sdist], check=True)
    (wheel,) = directory.glob("*.whl")
    installed = Installed(directory / "environment", wheel)
    installed.install()
    return installed


def test_counting_needs_no_service(installed: Installed, settings: Settings, store: LedgerStore) -> None:
    """The bare wheel counts in a real ledger, and neither brings nor imports Flask."""
    assert "No module named 'flask'" in installed.run("python", "-c", "import flask").stderr
    done = installed.run("python", "-c", COUNT_THREE, settings=settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert store.totals().requests == 3


def test_command_without_the_service_says_what_to_install(installed: Installed) -> None:
    """`hitledger` without its extra ends with one line that names the remedy."""
    done = installed.run("hitledger", "version")
    assert done.returncode == 1
    assert "hitledger[server]" in done.stderr
    assert done.stderr.count("\n") == 1


def test_wheel_is_typed(installed: Installed) -> None:
    """Type checkers find the wheel's annotations."""
    done = installed.run(
        "python", "-c", "import importlib.resources as r; print(r.files('hitledger').joinpath('py.typed').is_file())"
    )
    assert done.stdout == "True\n"


def test_service_runs_from_the_wheel(installed: Installed, tmp_path: Path) -> None:
    """With the extra, the wheel has all that the service needs, test runs and the docs page among it."""
    installed.install("[server]")
    assert installed.run("hitledger", "version").stdout.startswith("hitledger ")
    url = f"http://127.0.0.1:{free_port()}"
    environment = {
        "HITLEDGER_DATA_DIR": str(tmp_path),
        "HITLEDGER_PORT": url.rpartition(":")[2],
        "HITLEDGER_WORKERS": "1",
        "PYTHONPATH": "",
    }
    with Running([installed.directory / "bin" / "hitledger", "serve"], environment) as service:
        service.line_with("Serving on")
        run = wait_until(lambda: started(requests.post(f"{url}/test/10/", timeout=60)))
        assert (run["status"], run["succeeded"]) == ("finished", 10)
        for path in ("/stats/", "/openapi.json", "/docs/"):
            assert requests.get(url + path, timeout=20).status_code == 200, path
        service.end()


def started(answer: requests.Response) -> dict[str, Any] | None:
    """Return the run, or None where its worker is not there yet."""
    return None if answer.status_code == 503 else answer.json()
