"""What `pip install hitledger` and `pip install hitledger[server]` give, from a wheel built of the sdist."""

from __future__ import annotations

import json
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
from tests.ports import free_port
from tests.processes import Running
from tests.support import wait_until

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


def interpreters() -> list[str]:
    """Return this Python and every other one of the machine that the project is for, one a version."""
    classifiers = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    found = {".".join(map(str, sys.version_info[:2])): sys.executable}
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(":")]
    folders += Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/*/bin")
    for version in classifiers:
        for program in (folder / f"python{version}" for folder in folders):
            if version not in found and program.exists() and _runs(program):
                found[version] = str(program)
    return [found[version] for version in sorted(found)]


def _runs(program: Path) -> bool:
    """Tell whether it is a Python that makes environments: a version manager's stand-in may not be."""
    return subprocess.run([program, "-c", "import ensurepip, venv"], capture_output=True, check=False).returncode == 0


class Installed:
    """A clean environment with the wheel and what it asks for, at the lock file's versions."""

    def __init__(self, directory: Path, wheel: Path, python: str) -> None:
        self.directory = directory
        self._wheel = wheel
        self._constraints = directory.with_suffix(".txt")
        pins = re.findall(
            r"^[a-z0-9-]+==[^ ;]+(?: ;[^\\]+)?", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE
        )
        self._constraints.write_text("\n".join(pins))
        subprocess.run([python, "-m", "venv", "--without-pip", directory], check=True)

    def install(self, extra: str = "") -> None:
        """Install the wheel, with an extra if one is named."""
        options = ["--quiet", "--only-binary", ":all:", "--constraint", str(self._constraints)]
        command = [sys.executable, "-m", "uv", "pip", "install", "--python", str(self.directory / "bin" / "python")]
        done = subprocess.run(
            [*command, *options, f"{self._wheel}{extra}"], capture_output=True, text=True, check=False
        )
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
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built of it."""
    directory = tmp_path_factory.mktemp("packaging")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", directory], cwd=ROOT, check=True)
    (sdist,) = directory.glob("*.tar.gz")
    options = ["--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir", str(directory)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, sdist], check=True)
    (wheel,) = directory.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module", params=interpreters(), ids=lambda python: Path(python).name)
def installed(
    built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Installed:
    """The wheel in an environment of its own, on each Python that is here, without extras at first."""
    installed = Installed(tmp_path_factory.mktemp("installed") / "environment", built[1], request.param)
    installed.install()
    return installed


def test_index_takes_them(built: tuple[Path, Path]) -> None:
    """The package index would show source and wheel as they are meant: twine finds nothing."""
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_counting_brings_little(installed: Installed) -> None:
    """Beside itself the bare wheel brings redis-py and what that needs, and no more."""
    python = installed.directory / "bin" / "python"
    command = [sys.executable, "-m", "uv", "pip", "list", "--format", "json", "--python", str(python)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    names = {each["name"] for each in json.loads(done.stdout)}
    assert names - {"async-timeout", "typing-extensions"} == {"hitledger", "hiredis", "redis"}


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
