"""Sign-in against a certified OpenID Connect provider, oidc-provider, by a real browser and by a program."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Page, expect, sync_playwright

from tests.browsing import FLAGS, chromium
from tests.ports import free_port
from tests.processes import Running
from tests.support import Valkey

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js 18 or later: apt-get install nodejs npm"),
]
SOURCE = Path(__file__).parent / "oidc"
SECRET = "a secret that the service has from a file"


@dataclass(frozen=True)
class Place:
    """A provider and a service that trusts it, which are different sites to a browser."""

    issuer: str
    service: str

    def token(self, **form: str) -> str:
        """Return an access token for a program."""
        answer = requests.post(
            f"{self.issuer}/token", auth=("cron", "tick"), data={"grant_type": "client_credentials", **form}, timeout=30
        )
        return str(answer.json()["access_token"])

    def status(self, path: str, token: str) -> int:
        """Return what a path is answered with to a program with a token."""
        headers = {"Authorization": f"Bearer {token}"}
        return requests.get(self.service + path, headers=headers, timeout=30).status_code


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Both, running."""
    folder = tmp_path_factory.mktemp("o")
    for name in ("package.json", "package-lock.json", "provider.mjs"):
        shutil.copy(SOURCE / name, folder / name)
    npm = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)]
    subprocess.run(npm, check=True, capture_output=True, timeout=300)
    (folder / "secret").write_text(SECRET + "\n")
    (folder / "valkey").mkdir()
    valkey = Valkey(folder / "valkey")
    port, service_port = free_port(), free_port()
    found = Place(f"http://127.0.0.1:{port}", f"http://localhost:{service_port}")
    environment = {
        "HITLEDGER_HOST": "127.0.0.1",
        "HITLEDGER_PORT": str(service_port),
        "HITLEDGER_DATA_DIR": str(folder / "data"),
        "HITLEDGER_WORKERS": "2",
        "HITLEDGER_REDIS_URL": valkey.url,
        "HITLEDGER_PUBLIC_URL": found.service,
        "HITLEDGER_AUTH": "oidc",
        "HITLEDGER_OIDC_ISSUER": found.issuer,
        "HITLEDGER_OIDC_CLIENT_ID": "hitledger",
        "HITLEDGER_OIDC_CLIENT_SECRET_FILE": str(folder / "secret"),
        "HITLEDGER_OIDC_RIGHTS_CLAIM": "roles",
        "HITLEDGER_OIDC_RIGHTS": "staff=stats:read+test:run",
    }
    node = ["node", str(folder / "provider.mjs"), str(port), found.service]
    with (
        Running(node) as provider,
        Running([sys.executable, "-m", "hitledger", "serve"], environment, folder) as service,
    ):
        provider.line_with("listening", 60)
        service.line_with("Serving on", 60)
        yield found
    valkey.stop()


def test_a_program_comes_in_with_the_providers_token(place: Place) -> None:
    """By client credentials, with a signed token for this service; with another client's or a cut one it does not."""
    token = place.token()
    assert token.count(".") == 2
    assert place.status("/stats/", token) == 200
    assert place.status("/stats/", token[:-4] + "AAAA") == 401
    assert place.status("/stats/", "x" + token) == 401


@pytest.fixture
def page() -> Iterator[Page]:
    """A tab of a browser that knows nobody."""
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser.new_page()
        browser.close()


def sign_in(page: Page, name: str) -> None:
    """Say who one is, and that the service may know it."""
    page.fill("input[name=login]", name)
    page.fill("input[name=password]", "any")
    page.click("button[type=submit]")
    page.click("button[type=submit]")


@pytest.mark.skipif(chromium() is None, reason="there is no Chromium: apt-get install chromium")
def test_a_person_signs_in_and_out(place: Place, page: Page) -> None:
    """From the page that was wanted to the provider and back to it, by name; out again here and there."""
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.goto(f"{place.service}/runs/?limit=1")
    assert page.url.startswith(place.issuer)
    sign_in(page, "ada")
    page.wait_for_url(f"{place.service}/runs/**")
    expect(page.locator("header")).to_contain_text("ada of the tests")
    (cookie,) = [each for each in page.context.cookies() if each["name"] == "hitledger"]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    assert page.evaluate("document.cookie") == ""
    expect(page.locator("#try")).to_be_attached()
    page.click("header button:has-text('Sign out')")
    page.wait_for_url(f"{place.issuer}/session/end**")
    page.click("button[name=logout]")
    page.wait_for_url(f"{place.service}/auth/signed-out**")
    expect(page.locator("h1")).to_have_text("Signed out")
    page.goto(place.service)
    assert re.match(re.escape(place.issuer) + r"/(interaction|auth)", page.url)
    assert [each for each in complaints if "Content Security Policy" in each] == []


@pytest.mark.skipif(chromium() is None, reason="there is no Chromium: apt-get install chromium")
def test_a_person_without_rights_is_told(place: Place, page: Page) -> None:
    """Somebody whom the provider knows and says nothing of is named and not let in."""
    page.goto(place.service)
    sign_in(page, "eve")
    page.wait_for_url(f"{place.service}/**")
    expect(page.locator("h1")).to_have_text("Not allowed")
    expect(page.locator("main")).to_contain_text("stats:read")


@pytest.mark.skipif(chromium() is None, reason="there is no Chromium: apt-get install chromium")
def test_another_sites_page_starts_nothing(place: Place, page: Page) -> None:
    """A form on a page from elsewhere, sent by the browser of somebody who is signed in, is refused."""
    page.goto(f"{place.service}/runs/")
    sign_in(page, "ada")
    page.wait_for_url(f"{place.service}/runs/**")
    elsewhere = place.issuer + "/nothing"
    page.goto(elsewhere)
    page.evaluate(
        """action => { const form = document.createElement('form'); form.method = 'post'; form.action = action;
        document.body.append(form); form.submit(); }""",
        f"{place.service}/test/1/",
    )
    page.wait_for_url(f"{place.service}/test/1/")
    expect(page.locator("body")).to_contain_text("another site")
