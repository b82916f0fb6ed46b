"""The dashboard in a real browser, used as people use it; axe-core looks for what shuts people out."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from tests.browsing import FLAGS, chromium
from tests.ports import free_port
from tests.processes import Running
from tests.support import Valkey, clear_of_a_turn

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium: apt-get install chromium"),
]
AXE = Path(__file__).parent / "data" / "axe-core" / "axe.min.js"
CUT_OFF = """[...document.querySelectorAll(".tabs, .card, .balance, dd, header, .find")]
    .filter(each => each.scrollWidth > each.clientWidth).map(each => each.outerHTML.slice(0, 120))"""
"""What is wider than its place."""
HOSTILE = (
    "<script>window.hurt = 1</script>",
    "<img src=x onerror=window.hurt=1>",
    '"onmouseover="window.hurt=1',
    "'-window.hurt-'",
    "javascript:window.hurt=1",
    "{{7*7}}",
    "\u202egnp.exe\u2066",
    "😀",
    "x" * 2000,
)


@dataclass
class Service:
    """A whole service, and its ledger."""

    port: int
    valkey: Valkey

    @property
    def address(self) -> str:
        """Where the dashboard is."""
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, times: int = 1) -> None:
        """Send requests."""
        connection = HTTPConnection("127.0.0.1", self.port)
        for _ in range(times):
            connection.request("GET", path)
            connection.getresponse().read()
        connection.close()

    def read(self, path: str) -> bytes:
        """Return an answer."""
        connection = HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", path)
        answer = connection.getresponse().read()
        connection.close()
        return answer


@dataclass
class Tab:
    """A page and everything that it complained of."""

    page: Page
    service: Service
    complaints: list[str] = field(default_factory=list)

    def go(self, path: str) -> None:
        """Open a page of the dashboard."""
        self.page.goto(self.service.address + path)

    def serious(self) -> list[str]:
        """Return what axe-core calls serious or critical on the page as it is."""
        session = self.page.context.new_cdp_session(self.page)
        # Beside the page's policy, which lets no script run but its own.
        session.send("Runtime.evaluate", {"expression": AXE.read_text()})
        found = session.send(
            "Runtime.evaluate",
            {"expression": "axe.run().then(found => JSON.stringify(found.violations))", "awaitPromise": True,
             "returnByValue": True},
        )  # fmt: skip
        violations = json.loads(found["result"]["value"])
        return [
            f"{each['id']}: {[node['html'][:120] for node in each['nodes']]}"
            for each in violations
            if each["impact"] in ("serious", "critical")
        ]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with every kind of path in its ledger."""
    clear_of_a_turn(within=150)  # pages of an hour and a day are looked at until the module's end
    folder = tmp_path_factory.mktemp("b")
    (folder / "valkey").mkdir()
    valkey = Valkey(folder / "valkey")
    port = free_port()
    environment = {
        "HITLEDGER_PORT": str(port),
        "HITLEDGER_DATA_DIR": str(folder / "data"),
        "HITLEDGER_WORKERS": "1",
        "HITLEDGER_REDIS_URL": valkey.url,
    }
    with Running([sys.executable, "-m", "hitledger", "serve"], environment, folder) as running:
        running.line_with("Serving on")
        found = Service(port, valkey)
        for path in HOSTILE:
            found.ask(f"/api/hostile/{quote(path, safe='')}/")
        found.ask("/api/shop/tools/", 3)
        found.ask("/api/shop/", 2)
        yield found
        running.end()
    valkey.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium."""
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS, env=dict(os.environ))
        yield browser
        browser.close()


@pytest.fixture
def tab(browser: Browser, service: Service) -> Iterator[Tab]:
    """A new tab; whatever it writes to the console, the test fails."""
    context = browser.new_context(locale="en-US", timezone_id="Asia/Tokyo")
    found = Tab(context.new_page(), service)
    found.page.on("console", lambda message: found.complaints.append(message.text))
    found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
    yield found
    found.page.unroute_all(behavior="wait")
    context.close()
    assert not found.complaints


def test_now_updates_by_itself(tab: Tab) -> None:
    """A request shows up without a reload, rows that stand keep standing, and the rate appears."""
    tab.go("/")
    row = tab.page.locator("[data-rows] tr", has_text="/api/shop/tools/")
    row.evaluate("element => { element.mark = 'kept' }")
    tab.service.ask("/api/fresh/", 2)
    expect(tab.page.locator("[data-rows]")).to_contain_text("/api/fresh/")
    assert row.evaluate("element => element.mark") == "kept"
    fresh = tab.page.locator("[data-rows] tr", has_text="/api/fresh/").locator("td")
    expect(fresh).to_have_text([re.compile("[0-9]+"), "/api/fresh/", "2", re.compile("%"), "", "2", "new"])
    expect(tab.page.locator("[data-rate]")).to_have_text(re.compile("[0-9]"))
    expect(tab.page.locator("[data-today]")).not_to_have_text("0")
    expect(tab.page.locator("svg.spark path")).to_have_count(1)


def test_a_live_page_keeps_the_focus_and_can_be_paused(tab: Tab) -> None:
    """Rows that overtake take no focus away; paused, nothing moves any more; the slash key leads to the search."""
    tab.service.ask("/api/first/", 3)
    tab.service.ask("/api/second/", 2)
    tab.go("/?search=api")
    link = tab.page.locator("[data-rows] a", has_text="/api/second/")
    link.focus()
    tab.service.ask("/api/second/", 9)
    expect(tab.page.locator("[data-rows] tr", has_text="/api/second/").locator("td").nth(2)).to_have_text("11")
    expect(link).to_be_focused()
    tab.page.get_by_role("button", name="Pause").click()
    expect(tab.page.locator("[data-state]")).to_have_text("paused")
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(request.url))
    tab.page.clock.install()
    tab.page.clock.run_for(5000)
    assert asked == []
    tab.page.keyboard.press("/")
    expect(tab.page.get_by_role("searchbox")).to_be_focused()
    tab.page.get_by_role("button", name="Pause").click()
    expect(tab.page.locator("[data-state]")).to_have_text("live")


def test_counts_never_go_back(tab: Tab) -> None:
    """What another process has drawn a moment earlier is not shown in place of what is newer."""
    tab.service.ask("/api/calm/")
    with tab.page.expect_response(re.compile("/live/")) as waiting:
        tab.go("/?search=calm")
    early = waiting.value.text()
    requests = tab.page.locator("[data-rows] tr", has_text="/api/calm/").locator("td").nth(2)
    before = requests.inner_text()
    tab.service.ask("/api/calm/")
    expect(requests).not_to_have_text(before)
    after = requests.inner_text()
    tab.page.route("**/live/*", lambda route: route.fulfill(body=early, content_type="text/html"))
    for _ in range(2):
        with tab.page.expect_response(re.compile("/live/")):
            pass
    assert requests.inner_text() == after


def test_nothing_moves_for_those_who_want_it_calm(tab: Tab) -> None:
    """Numbers flash when they change, but not where the system asks for reduced motion."""
    tab.service.ask("/api/calm/")
    moving = "document.getAnimations().length"
    for motion, seen in (("no-preference", True), ("reduce", False)):
        tab.page.emulate_media(reduced_motion="reduce" if motion == "reduce" else "no-preference")
        tab.go("/?search=calm")
        requests = tab.page.locator("[data-rows] tr", has_text="/api/calm/").locator("td").nth(2)
        before = requests.inner_text()
        tab.page.evaluate(f"""() => {{
            window.moved = 0;
            new MutationObserver(() => {{ window.moved = Math.max(window.moved, {moving}); }})
                .observe(document.querySelector("main"), {{subtree: true, childList: true, characterData: true}});
        }}""")
        tab.service.ask("/api/calm/")
        expect(requests).not_to_have_text(before)
        assert bool(tab.page.evaluate("window.moved")) == seen


def test_a_hidden_page_asks_for_nothing(tab: Tab) -> None:
    """While nobody sees the page it leaves the service alone; seen again, it catches up at once."""
    tab.page.clock.install()
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(request.url))
    with tab.page.expect_response(re.compile("/live/")):
        tab.go("/")

    def looks(seconds: int) -> int:
        """Let seconds pass on the page's clock, and what they start be answered; return how often it asked."""
        asked.clear()
        for _ in range(seconds):
            tab.page.clock.run_for(1000)
            tab.page.evaluate("fetch('/livez').then(answer => answer.text())")
        return sum("/live/" in each for each in asked)

    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true})"
    assert looks(5) > 1
    tab.page.evaluate(hide % "true")
    looks(2)  # what was under way ends
    assert looks(5) == 0
    with tab.page.expect_response(re.compile("/live/")):
        tab.page.evaluate(hide % "false" + "; document.dispatchEvent(new Event('visibilitychange'))")


def test_find_by_text_period_and_section(tab: Tab) -> None:
    """What is chosen is in the address; sections lead down to a URL's history; back and forward work."""
    tab.go("/")
    tab.page.get_by_role("link", name="Today").click()
    tab.page.get_by_label("Find").fill("shop")
    tab.page.get_by_role("button", name="Show").click()
    expect(tab.page).to_have_url(re.compile("search=shop.*period=day"))
    expect(tab.page.locator("[data-rows] tr")).to_have_count(2)
    tab.page.get_by_role("link", name="Sections", exact=True).click()
    tab.page.locator("svg.map a[data-key='/api/']").click()
    tab.page.locator("[data-rows]").get_by_role("link", name="/api/shop/", exact=True).click()
    expect(tab.page.get_by_role("navigation", name="Section")).to_have_text(re.compile(r"all\s*/\s*api\s*/\s*shop"))
    with tab.page.expect_download() as waiting:
        tab.page.get_by_role("link", name="CSV", exact=True).click()
    assert "/api/shop/tools/,3" in waiting.value.path().read_text()
    tab.page.locator("[data-rows]").get_by_role("link", name="/api/shop/tools/").click()
    tab.page.go_back()
    expect(tab.page.get_by_role("heading", level=1)).to_have_text("/api/shop/")
    tab.page.go_forward()
    expect(tab.page.get_by_role("heading", level=1)).to_have_text("/api/shop/tools/")


def test_one_url_shows_its_history(tab: Tab) -> None:
    """From a row to the URL's own page: total, rank, a chart and the numbers."""
    tab.go("/?search=shop/tools")
    tab.page.locator("[data-rows] a", has_text="/api/shop/tools/").click()
    expect(tab.page).to_have_url(re.compile(r"/url\?" + urlencode({"url": "/api/shop/tools/"})))
    expect(tab.page.locator("[data-total]")).to_have_text("3")
    expect(tab.page.locator("tbody td.number")).to_have_text(["3"])
    for kind in ("Days", "Months"):
        tab.page.get_by_role("link", name=kind).click()
        expect(tab.page.locator("tbody td.number")).to_have_text(["3"])
    tab.page.locator("svg.chart g").last.hover()
    expect(tab.page.locator("[data-tip-for]")).to_have_text(re.compile("^3, "))
    tab.service.ask("/api/shop/tools/")
    expect(tab.page.locator("[data-total]")).to_have_text("4")


def test_try_a_run_and_cancel_one(tab: Tab) -> None:
    """A run's progress and pace are followed, and its end is listed; another is cancelled; each has an address."""
    tab.go("/runs/")
    tab.page.get_by_label("Requests", exact=True).fill("60")
    tab.page.get_by_role("button", name="Start").click()
    expect(tab.page.locator("#run .badge")).to_have_text("finished", timeout=20_000)
    expect(tab.page.locator("[data-run]")).to_have_text("60 of 60 requests")
    expect(tab.page.locator(".percentiles")).to_contain_text("p99")
    expect(tab.page.locator("#run tbody tr").first.locator(".number")).not_to_have_text("0")
    expect(tab.page.locator("[data-runs] tr").first).to_contain_text("finished")
    expect(tab.page).to_have_url(re.compile(r"/runs/\?run="))
    tab.page.get_by_label("Requests", exact=True).fill("200000")
    tab.page.get_by_role("button", name="Start").click()
    expect(tab.page.locator("[data-pace]")).to_have_text(re.compile("[1-9]"), timeout=20_000)
    tab.page.get_by_role("button", name="Cancel").click()
    expect(tab.page.locator("#run .badge")).to_have_text("cancelled", timeout=20_000)


def test_all_can_be_read_and_a_run_be_started_without_a_script(browser: Browser, service: Service) -> None:
    """With JavaScript off, every page has its figures, and forms do what the script would."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(service.address + "/?prefix=/api/&group=2")
    expect(page.locator("[data-rows] tr", has_text="/api/shop/")).to_have_count(1)
    expect(page.locator("[data-balance=received]")).to_have_text(re.compile("[1-9]"))
    page.goto(service.address + "/runs/")
    page.get_by_label("Requests", exact=True).fill("20")
    page.get_by_role("button", name="Start").click()
    # The page itself asks anew, once a second.
    expect(page.locator("#run .badge")).to_have_text("finished", timeout=20_000)
    context.close()


def test_trust_says_when_the_ledger_is_away(tab: Tab) -> None:
    """The balance goes on showing the last figures, says that they are old, and recovers by itself."""
    tab.go("/")
    posted = tab.page.locator("[data-balance=posted]")
    expect(posted).to_have_text(re.compile("[1-9]"))
    tab.service.valkey.kill()
    try:
        expect(tab.page.locator("#balance.away")).to_be_visible(timeout=20_000)
        expect(tab.page.locator("[data-notice]")).to_contain_text("last figures known")
        expect(posted).to_have_text(re.compile("[1-9]"))
        tab.service.ask("/api/shop/", 4)
        expect(tab.page.locator("[data-balance=pending]")).to_have_text(re.compile("[1-9]"))
        assert tab.serious() == []
    finally:
        tab.service.valkey.start()
    expect(tab.page.locator("#balance:not(.away)")).to_be_visible(timeout=20_000)
    expect(tab.page.locator("[data-notice]")).to_have_count(0)
    expect(tab.page.locator("[data-balance=pending]")).to_have_text("0", timeout=20_000)


def test_lost_hits_are_red(tab: Tab) -> None:
    """A loss cannot be overlooked."""

    def with_a_loss(route: Route) -> None:
        answer = route.fetch()
        text = re.sub(r'data-balance="lost">0', 'data-balance="lost">1,234', answer.text())
        route.fulfill(response=answer, body=text.replace('class="balance good"', 'class="balance wrong"'))

    tab.page.route("**/live/*", with_a_loss)
    tab.go("/")
    expect(tab.page.locator("#balance.wrong [data-balance=lost]")).to_have_text("1,234")
    assert tab.serious() == []


def test_take_away_what_is_on_screen(tab: Tab) -> None:
    """The download holds the rows that the page was about, and no others."""
    tab.go("/?search=shop")
    with tab.page.expect_download() as waiting:
        tab.page.get_by_role("link", name="CSV", exact=True).click()
    lines = waiting.value.path().read_text().split()
    assert sorted(line.split(",")[0] for line in lines[1:]) == ["/api/shop/", "/api/shop/tools/"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_shuts_people_out(tab: Tab, scheme: str) -> None:
    """axe-core finds nothing serious on any page, in either scheme, on a phone and on a desk."""
    tab.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    long = urlencode({"url": "/api/hostile/" + "x" * 2000 + "/"})
    run = json.loads(tab.service.read("/test/runs/"))["runs"]
    pages = ["/", "/?prefix=%2Fapi%2F&group=2", "/?search=nothing+like+it", "/?limit=0", "/runs/", f"/url?{long}"]
    pages += [f"/runs/?run={each['id']}" for each in run[:1]]
    for width in (360, 1100):
        tab.page.set_viewport_size({"width": width, "height": 800})
        for address in pages:
            tab.page.goto(tab.service.address + address)
            assert (address, tab.serious()) == (address, [])
            wide = tab.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert (address, wide) == (address, 0)
            cut = tab.page.evaluate(CUT_OFF)
            assert (address, cut) == (address, [])
    tab.complaints[:] = [each for each in tab.complaints if "422" not in each]


def test_hostile_paths_run_nothing(tab: Tab) -> None:
    """Whatever a path holds, pages show it as text: drawn by the server, by the script, and alone."""
    for address in ("/?search=hostile", "/?prefix=%2Fapi%2Fhostile%2F&group=3"):
        with tab.page.expect_response(re.compile("/live/")):
            tab.go(address)
        expect(tab.page.locator("[data-rows] tr")).to_have_count(len(HOSTILE))
    for path in HOSTILE:
        tab.go("/url?" + urlencode({"url": f"/api/hostile/{quote(path, safe='')}/"}))
        expect(tab.page.locator("[data-total]")).to_have_text("1")
        tab.go("/?" + urlencode({"search": path[:150]}))
        assert tab.page.evaluate("window.hurt") is None
        assert "\u202e" not in tab.page.locator("body").inner_text()


def test_the_api_can_be_tried_under_the_policy(tab: Tab) -> None:
    """The page of the HTTP API works with scripts and styles of our own only."""
    tab.go("/docs/")
    operation = tab.page.locator(".opblock", has_text="/livez")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table .response .response-col_status")).to_contain_text("200")


def test_times_are_the_readers(tab: Tab) -> None:
    """A time is shown in the reader's own zone, nine hours ahead of UTC in Tokyo."""
    tab.go("/runs/")
    tab.go("/url?url=/api/shop/")
    shown = tab.page.locator(".asof time")
    tab.page.get_by_role("button", name="Pause").click()
    form = "{timeZone: 'Asia/Tokyo', timeStyle: 'medium'}"
    shown_text, expected = shown.evaluate(
        f"each => [each.textContent, new Date(each.dateTime).toLocaleString('en-US', {form})]"
    )
    assert shown_text == expected


def test_axe_is_what_it_says() -> None:
    """The vendored axe-core is the one that its README names."""
    named = re.search(r"([0-9a-f]{64})  axe\.min\.js", (AXE.parent / "README.md").read_text())
    assert named
    assert hashlib.sha256(AXE.read_bytes()).hexdigest() == named.group(1)
