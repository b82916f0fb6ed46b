"""docker-compose.yml as the README uses it: it serves, is hardened, scales, and keeps its counts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.ports import free_port
from tests.support import wait_until

ROOT = Path(__file__).parent.parent
CAPABILITIES = "0000000000000000"

pytestmark = [pytest.mark.slow, pytest.mark.compose]


def compose_command() -> list[str]:
    """Return the command that runs compose files here; skip where there is none, or no engine."""
    if not shutil.which("docker") or subprocess.run(["docker", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no container engine runs here")
    if not subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    pytest.skip("neither docker compose nor docker-compose is installed")


class Project:
    """The containers of docker-compose.yml under a name of the test's own."""

    def __init__(self) -> None:
        self.port = free_port()
        name = f"hitledger-test-{os.getpid()}"
        self._command = [*compose_command(), "-p", name, "-f", str(ROOT / "docker-compose.yml")]
        self.prometheus_port = free_port()
        self._environment = {
            **os.environ, "HITLEDGER_PORT": str(self.port), "VALKEY_PASSWORD": "a-word_of-its-own",
            "PROMETHEUS_PORT": str(self.prometheus_port),
        }  # fmt: skip

    def __call__(self, *words: str) -> str:
        """Run one compose command and return what it printed."""
        done = subprocess.run(
            [*self._command, *words], env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]} {done.stderr[-4000:]}"
        return done.stdout

    def up(self, *options: str) -> None:
        """Start what is not running, and wait until the service answers."""
        self("up", "-d", *options)
        wait_until(self.is_ready, 60)

    def is_ready(self) -> bool:
        """Tell whether the service answers, and reaches its ledger."""
        try:
            return bool(self.get("/readyz").json()["ledger"]["reachable"])
        except requests.RequestException:  # refused, slow, or not yet the service's own answer
            return False

    def get(self, path: str) -> requests.Response:
        """Ask the service as a user of this machine does."""
        return requests.get(f"http://127.0.0.1:{self.port}{path}", timeout=20)

    def count_of(self, url: str) -> int:
        """Return how often the report says that a URL was requested."""
        return sum(row["requests"] for row in self.get("/stats/").json()["urls"] if row["url"] == url)

    def run_of(self, requests_wanted: int) -> dict[str, Any]:
        """Make a test run and return its record."""
        url = f"http://127.0.0.1:{self.port}/test/{requests_wanted}/"

        def start() -> requests.Response | None:
            answer = requests.post(url, headers={"Prefer": "wait=60"}, timeout=70)
            return None if answer.status_code == 503 else answer  # no worker has come up yet

        answer = wait_until(start)
        assert answer.status_code == 200, answer.text
        record: dict[str, Any] = answer.json()
        return record

    def inspect(self, service: str) -> list[dict[str, Any]]:
        """Return what the engine knows of a service's containers."""
        ids = self("ps", "-q", service).split()
        found: list[dict[str, Any]] = json.loads(subprocess.check_output(["docker", "inspect", *ids]))
        return found

    def inside(self, service: str, script: str) -> str:
        """Run a shell script in a service's container and return what it printed."""
        return self("exec", "-T", service, "sh", "-c", script)


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    """Build the image and start all containers once; leave nothing behind."""
    project = Project()
    try:
        project("build")
        project.up()
        yield project
    finally:
        project("down", "--volumes", "--timeout", "20")


def test_counts_what_it_answers(project: Project) -> None:
    """A request through the published port is in the report that follows it."""
    before = project.count_of("/api/compose/")
    assert project.get("/api/compose/").json() == {"url": "/api/compose/"}
    assert project.count_of("/api/compose/") == before + 1


def test_workers_make_test_runs(project: Project) -> None:
    """A test run reaches the service by its name in the containers' network, and is counted."""
    run = project.run_of(100)
    assert (run["status"], run["succeeded"], run["failed"]) == ("finished", 100, 0)
    assert sum(project.count_of(f"/api/{segment}/") for segment in run["pool"]) <= 100
    assert project.get("/stats/").json()["total_requests"] >= 100


@pytest.mark.parametrize("service", ["web", "worker", "valkey"])
def test_containers_are_hardened(project: Project, service: str) -> None:
    """No container runs as root, has a capability, can gain one, or writes outside its volumes."""
    for container in project.inspect(service):
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert host["Memory"] > 0
        assert host["PidsLimit"] > 0
    status = dict(line.split(":\t") for line in project.inside(service, "cat /proc/1/status").splitlines())
    assert "0" not in status["Uid"].split()
    assert status["CapPrm"] == status["CapEff"] == status["CapBnd"] == CAPABILITIES
    assert status["NoNewPrivs"] == "1"
    assert project.inside(service, "touch /opt/x /usr/x 2>/dev/null || echo refused") == "refused\n"


def test_only_the_service_is_published(project: Project) -> None:
    """The service is published on loopback, and nothing else at all."""
    published = {
        service: [
            (port["HostIp"], int(port["HostPort"]))
            for ports in container["NetworkSettings"]["Ports"].values()
            for port in ports or []
        ]
        for service in ("web", "worker", "valkey")
        for container in project.inspect(service)
    }
    assert published == {"web": [("127.0.0.1", project.port)], "worker": [], "valkey": []}


def test_image_has_no_build_tools(project: Project) -> None:
    """What runs cannot install or compile anything."""
    script = "for each in pip gcc cc make; do command -v $each; done; python -c 'import pip' 2>&1 | tail -1"
    assert project.inside("web", script) == "ModuleNotFoundError: No module named 'pip'\n"


def test_ledger_keeps_every_write(project: Project) -> None:
    """The ledger syncs each write and never evicts."""
    ask = 'REDISCLI_AUTH="$VALKEY_PASSWORD" valkey-cli config get'
    for name, value in [("appendonly", "yes"), ("appendfsync", "always"), ("maxmemory-policy", "noeviction")]:
        assert project.inside("valkey", f"{ask} {name}").split() == [name, value]


def test_password_is_asked_for(project: Project) -> None:
    """The ledger takes no command without the password, and no process list shows it."""
    assert "NOAUTH" in project.inside("valkey", "valkey-cli ping 2>&1 || true")
    assert "a-word_of-its-own" not in project.inside("valkey", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")


def test_workers_scale(project: Project) -> None:
    """Three workers share the test runs."""
    project.up("--scale", "worker=3", "--no-recreate")
    assert [container["State"]["Running"] for container in project.inspect("worker")] == [True] * 3
    assert project.run_of(3000)["succeeded"] == 3000


def test_prometheus_watches_the_service(project: Project) -> None:
    """The monitoring profile's Prometheus finds the service, and has read the alerts."""
    image = next(
        line.split()[1] for line in (ROOT / "docker-compose.yml").read_text().splitlines() if "image: prom/" in line
    )
    if subprocess.run(["docker", "run", "--rm", image, "--version"], capture_output=True, check=False).returncode:
        pytest.skip(f"the image {image} that this engine has does not run")
    project("--profile", "monitoring", "up", "-d", "prometheus")
    address = f"http://127.0.0.1:{project.prometheus_port}/api/v1"

    def asked(path: str) -> Any:
        try:
            return requests.get(f"{address}/{path}", timeout=20).json()["data"]
        except requests.RequestException:  # refused, or "Service Unavailable" while it reads its files
            return None

    def is_up() -> bool:
        found = asked("query?query=up")
        return bool(found and found["result"]) and found["result"][0]["value"][1] == "1"

    wait_until(is_up, 60)
    found = wait_until(lambda: asked("rules"))
    assert {rule["name"] for group in found["groups"] for rule in group["rules"]} >= {"HitledgerHitsLost"}


def test_counts_survive_kill_and_down(project: Project) -> None:
    """Counts survive SIGKILL of every container at once, and a project taken down and started anew."""
    before = project.count_of("/api/kept/")
    for _ in range(20):
        project.get("/api/kept/")
    project("kill")
    project.up()
    assert project.count_of("/api/kept/") == before + 20
    project.get("/api/kept/")
    project("down", "--timeout", "20")
    project.up()
    assert project.count_of("/api/kept/") == before + 21
