"""`tools/check-release`: a tag is released only where version and changelog agree with it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that is ready to be released as v1.2.0."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "check-release", tmp_path / "tools")
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## Unreleased\n\n## 1.2.0 - 2026-01-31\n\n- New.\n\n## 1.1.0 - 2025-12-01\n\n- Old.\n"
    )
    return tmp_path


def check(checkout: Path, tag: str = "v1.2.0") -> subprocess.CompletedProcess[str]:
    """Run the check."""
    command = [sys.executable, str(checkout / "tools" / "check-release"), tag]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def change(checkout: Path, name: str, old: str, new: str) -> None:
    """Replace a text in a file of the checkout."""
    text = (checkout / name).read_text()
    assert old in text
    (checkout / name).write_text(text.replace(old, new))


def test_what_agrees_may_be_released(checkout: Path) -> None:
    """Tag, version and a dated section of the changelog agree: nothing stands in the way."""
    done = check(checkout)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("pyproject.toml", "1.2.0", "1.3.0", "the tag must be v1.3.0"),
        ("CHANGELOG.md", "1.2.0", "1.1.9", "says nothing under '## 1.2.0"),
        ("CHANGELOG.md", "- New.", "", "says nothing under '## 1.2.0"),
        ("CHANGELOG.md", " - 2026-01-31", "", "needs its day"),
        ("CHANGELOG.md", "2026-01-31", "2999-01-31", "needs its day"),
        ("CHANGELOG.md", "## Unreleased\n", "## Unreleased\n\n- More.\n", "under 'Unreleased'"),
    ],
)
def test_what_disagrees_is_refused(checkout: Path, name: str, old: str, new: str, said: str) -> None:
    """Each disagreement refuses the release, and is named."""
    change(checkout, name, old, new)
    done = check(checkout)
    assert done.returncode == 1
    assert said in done.stderr


def test_this_changelog_can_be_read() -> None:
    """The project's own changelog has the form that the check reads."""
    assert re.search(
        r"^## (Unreleased|\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
