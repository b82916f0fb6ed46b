"""The documentation: the site is whole, and what its pages tell a reader to do can be done."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from tests.ports import free_port
from tests.processes import Running
from tests.support import Valkey, wait_until

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^(?P<note><!-- .*? -->\n)?```(?P<language>[a-z]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN_ELSEWHERE = ("make", "docker", "docker-compose", "git", "pip", "sudo", "apt-get", "kubectl", "python")
"""Programs that set things up: other tests run them, in clones, containers and environments of their own."""

pytestmark = [pytest.mark.slow, pytest.mark.docs]


@dataclass(frozen=True)
class Example:
    """A fenced block of a page; `note` is the comment before it, such as `<!-- not run: needs a cluster -->`."""

    page: str
    line: int
    language: str
    text: str
    note: str

    @property
    def name(self) -> str:
        """Where it stands."""
        return f"{self.page}:{self.line}"


def examples(*languages: str) -> Iterator[Example]:
    """Yield the blocks of all pages in these languages that are to be run."""
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            found = Example(
                page.name,
                text.count("\n", 0, match.start()) + 1,
                match["language"],
                match["text"],
                match["note"] or "",
            )
            if found.language in languages and "not run:" not in found.note and not only_sets_up(found):
                yield found


def only_sets_up(example: Example) -> bool:
    """Tell whether a console block has no command that runs here."""
    return example.language == "console" and not list(commands(example.text))


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console block that runs here, and what the page shows below it."""
    for piece in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = piece.replace("\\\n", " ").partition("\n")
        if shlex.split(command)[0] not in SHOWN_ELSEWHERE:
            yield command, shown


def named(*languages: str) -> pytest.MarkDecorator:
    """Return a decorator that runs a test once for each example."""
    return pytest.mark.parametrize("example", list(examples(*languages)), ids=lambda example: example.name)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A running service's address, and the environment to speak to it in."""
    folder, port = tmp_path_factory.mktemp("service"), free_port()
    environment = {"HITLEDGER_DATA_DIR": str(folder / "data"), "HITLEDGER_PORT": str(port), "HITLEDGER_WORKERS": "1"}
    with Running([sys.executable, "-m", "hitledger", "serve"], environment) as running:
        running.line_with("Serving on")
        yield f"http://localhost:{port}", environment
        running.end()


def test_the_site_is_whole(tmp_path: Path) -> None:
    """The site builds offline without a warning: no link inside it is broken, no page is left out."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(ROOT / "docs"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "HITLEDGER_REDIS_URL" in (tmp_path / "reference" / "settings.html").read_text()


@named("python")
def test_python(example: Example, valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of Python runs as it stands, with an application and a ledger to be had."""
    monkeypatch.setenv("HITLEDGER_REDIS_URL", valkey.url)
    monkeypatch.setenv("HITLEDGER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    text = example.text.replace("redis://localhost", valkey.url)
    names: dict[str, Any] = {"app": Flask("example")}
    exec(compile(text, example.name, "exec"), names)  # noqa: S102 - the project's own pages


@named("json", "toml")
def test_json_and_toml(example: Example) -> None:
    """A block of JSON or TOML can be read as such."""
    assert {"json": json.loads, "toml": tomllib.loads}[example.language](example.text)


@named("console")
def test_console(example: Example, service: tuple[str, dict[str, str]]) -> None:
    """What a reader types does what the page says, and prints it where the page shows what."""
    url, environment = service
    programs = {**os.environ, **environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command, shown in commands(example.text):
        text = command.replace("http://localhost:5000", url).replace(".venv/bin/", "")
        output = output_of(text, programs)
        assert not shown or output.strip() == shown.strip()


def output_of(command: str, environment: dict[str, str]) -> str:
    """Run a command until it ends well, as a test run does once its worker is there, and return what it prints."""
    tries: list[subprocess.CompletedProcess[str]] = []

    def run() -> bool:
        words = ["bash", "-c", command.replace("curl ", "curl -sSf ")]
        tries.append(
            subprocess.run(
                words, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
            )
        )
        return tries[-1].returncode == 0

    try:
        wait_until(run)
    except AssertionError:
        raise AssertionError(f"`{command}` ends with {tries[-1]}") from None
    return tries[-1].stdout
