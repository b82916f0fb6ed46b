"""deploy/monitoring: alerts and dashboard, held to what the service really tells a real Prometheus."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from hitledger.serve import answers_http
from hitledger.settings import Settings
from tests.ports import free_port
from tests.processes import Running
from tests.support import Valkey, wait_until

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy" / "monitoring"
OF_THE_MACHINE = {"HitledgerDiskNearlyFull"}
"""What a test cannot see to: its machine's disk may really be nearly full."""
COMPARISON = re.compile(r" (?:>|<|==|!=) -?[0-9.]+")

needs_prometheus = pytest.mark.skipif(
    not shutil.which("promtool") or not shutil.which("prometheus"), reason="needs Debian's package prometheus"
)


def alerts() -> list[dict[str, Any]]:
    """Return the alert rules."""
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def panels() -> list[dict[str, Any]]:
    """Return the dashboard's panels."""
    found: list[dict[str, Any]] = json.loads((FOLDER / "grafana" / "hitledger.json").read_text())["panels"]
    return found


@pytest.mark.slow
@needs_prometheus
def test_each_alert_is_tested(tmp_path: Path) -> None:
    """Promtool finds the rules sound, their tests pass, and no alert is without one that makes it fire."""
    for words in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]):
        done = subprocess.run(["promtool", *words], cwd=FOLDER, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    tests = (FOLDER / "alerts.test.yml").read_text()
    assert set(re.findall(r'alertname="(\w+)"', tests)) == {rule["alert"] for rule in alerts()}
    # And the tests can fail: with another threshold, the alert that they wait for does not come.
    shutil.copytree(FOLDER, tmp_path / "broken")
    rules = tmp_path / "broken" / "alerts.yml"
    rules.write_text(rules.read_text().replace("cap_bytes > 0.8", "cap_bytes > 0.9"))
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts.test.yml"], cwd=rules.parent, capture_output=True, text=True, check=False
    )
    assert "HitledgerJournalNearCap" in done.stdout + done.stderr
    assert done.returncode != 0


def test_each_alert_has_a_page_to_turn_to() -> None:
    """Whoever is woken by an alert finds its heading in the runbook."""
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / "monitoring.md").read_text(), re.MULTILINE)
    assert headings == [rule["alert"] for rule in alerts()]
    for rule in alerts():
        assert rule["annotations"]["runbook"] == f"docs/monitoring.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_the_dashboard_is_as_it_is_made() -> None:
    """The JSON is what tools/make-dashboard writes; panels neither share a place nor an id, and all have a query."""
    dashboard = json.loads((FOLDER / "grafana" / "hitledger.json").read_text())
    assert dashboard == runpy.run_path(str(ROOT / "tools" / "make-dashboard"))["dashboard"]()
    places: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not places & mine
        places |= mine
        assert panel["title"]
        assert panel["description"]
        assert panel["targets"]
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_what_compose_mounts_is_there() -> None:
    """The profile `monitoring` finds its files, publishes on loopback only, and no other service is in it."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for name, service in compose["services"].items():
        if name not in ("prometheus", "grafana"):
            assert "profiles" not in service
            continue
        assert service["profiles"] == ["monitoring"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        files = [volume.split(":")[0] for volume in service["volumes"] if volume.startswith("./")]
        assert files
        assert all((ROOT / file).is_file() for file in files)


@dataclass(frozen=True)
class Monitor:
    """A Prometheus that has watched a service at work."""

    port: int

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its API."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}", timeout=20) as answer:
            return json.load(answer)["data"]

    def has_scraped(self, times: int) -> bool:
        """Tell whether the service was looked at so many times."""
        found = self.values("hitledger_ledger_up[1h]")
        return bool(found) and len(found[0]["values"]) >= times

    def pending(self) -> set[str]:
        """Return the alerts that fire, or would if it went on."""
        (group,) = self.ask("rules")["groups"]
        return {rule["name"] for rule in group["rules"] if rule["state"] != "inactive"}

    def values(self, query: str) -> list[Any]:
        """Return what a query finds now."""
        found: list[Any] = self.ask("query", query=query)["result"]
        return found


def answers(url: str) -> bool:
    """Tell whether a URL is answered with 2xx."""
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def monitor(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitor]:
    """Prometheus beside web processes, a worker and a test run, scraping every second."""
    folder = tmp_path_factory.mktemp("monitoring")
    port, own_port = free_port(), free_port()
    environment = {
        "HITLEDGER_REDIS_URL": valkey.url, "HITLEDGER_DATA_DIR": str(folder / "data"), "HITLEDGER_WORKERS": "2",
        "HITLEDGER_PORT": str(port), "HITLEDGER_KEY_PREFIX": "test-monitored",
    }  # fmt: skip
    configuration = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(FOLDER / "alerts.yml")]
    (job,) = configuration["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    prometheus = [
        "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{own_port}",
    ]  # fmt: skip
    ours = [sys.executable, "-m", "hitledger"]
    monitor = Monitor(own_port)
    with Running([*ours, "web"], environment), Running([*ours, "worker"], environment), Running(prometheus):
        wait_until(lambda: answers_http(Settings(port=port)))
        wait_until(lambda: answers(f"http://127.0.0.1:{own_port}/-/ready"), 60)
        start = urllib.request.Request(f"http://127.0.0.1:{port}/test/50/", method="POST")
        # A rate needs two scrapes, with something between them.
        for scrapes in (2, 6):
            wait_until(lambda: answers(f"http://127.0.0.1:{port}/stats/"))
            wait_until(lambda: _started(start))
            wait_until(partial(monitor.has_scraped, scrapes), 60)
        yield monitor


def _started(start: urllib.request.Request) -> bool:
    try:
        with urllib.request.urlopen(start, timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@needs_prometheus
@pytest.mark.slow
def test_each_panel_shows_something(monitor: Monitor) -> None:
    """Each query of each panel finds data of a service at work."""
    for panel in panels():
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "30s").replace("$instance", ".*")
            wait_until(partial(monitor.values, query), 60)


@needs_prometheus
@pytest.mark.slow
def test_each_alert_sees_something_and_none_fires(monitor: Monitor) -> None:
    """What each alert compares is there, so that none is silent for want of data; and the service is well."""
    for rule in alerts():
        for query in COMPARISON.sub("", rule["expr"]).split(" or "):
            wait_until(partial(monitor.values, query), 60)
    (group,) = monitor.ask("rules")["groups"]
    assert len(group["rules"]) == len(alerts())
    assert {rule["health"] for rule in group["rules"]} == {"ok"}
    # A scrape that comes late on a busy machine makes one pending for a moment.
    wait_until(lambda: not monitor.pending() - OF_THE_MACHINE, 60)
