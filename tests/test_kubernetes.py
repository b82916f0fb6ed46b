"""deploy/kubernetes: valid, restricted, and what a pod leaves behind is in the ledger or on its volume."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from hitledger.ledger import LedgerStore
from hitledger.serve import answers_http
from hitledger.settings import PREFIX, Settings
from tests.kustomize import Manifest, containers_of, render
from tests.ports import free_port
from tests.processes import Running
from tests.support import wait_until

FOLDER = Path(__file__).parent.parent / "deploy" / "kubernetes"
OVERLAYS = ("base", "overlays/single-node", "overlays/production")
VERSIONS = ("1.33", "1.37")
"""The oldest Kubernetes that the manifests are for, and the newest that they are checked against."""
SECRET_KEYS = {"redis-password", "session-key"}


@pytest.fixture(scope="module", params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    """What is applied, by overlay."""
    return render(FOLDER / request.param)


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    """Return the manifests of some kinds."""
    return [each for each in manifests if each["kind"] in kinds]


def workloads(manifests: list[Manifest]) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """Yield the name, the pod and its labels of everything that runs."""
    for each in of_kind(manifests, "StatefulSet", "Deployment"):
        template = each["spec"]["template"]
        yield each["metadata"]["name"], template["spec"], template["metadata"]["labels"]


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Tell whether a selector has pods with these labels."""
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_rendered_as_kubectl_does(overlay: str) -> None:
    """What these tests look at is what `kubectl kustomize` makes."""
    if not shutil.which("kubectl"):
        pytest.skip("there is no kubectl; the other tests hold without it")
    version = json.loads(subprocess.check_output(["kubectl", "version", "--client", "-o", "json"]))
    if version.get("kustomizeVersion", "v4") < "v5":
        pytest.skip("this kubectl is from before kustomize 5")
    made = subprocess.check_output(["kubectl", "kustomize", str(FOLDER / overlay)], text=True)

    def in_order(manifests: list[Manifest]) -> list[Manifest]:
        return sorted(manifests, key=lambda each: (each["kind"], each["metadata"]["name"]))

    assert in_order(list(yaml.safe_load_all(made))) == in_order(render(FOLDER / overlay))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.slow
def test_every_manifest_is_valid(manifests: list[Manifest], version: str) -> None:
    """Each is as Kubernetes' own schemas say, without a field that they do not know."""
    assert len(manifests) >= 10
    for each in manifests:
        kubernetes_validate.validate(each, version, strict=True)


def test_pods_are_restricted(manifests: list[Manifest]) -> None:
    """Each pod keeps to the restricted standard, and to a root file system that nobody writes to."""
    (namespace,) = of_kind(manifests, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for _, pod, _ in workloads(manifests):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] >= 10_000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all(set(each) & {"emptyDir", "secret", "configMap"} for each in pod["volumes"])
    for container in (each for manifest in manifests for each in containers_of(manifest)):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"]) & set(container["resources"]["limits"])


def mounted(pod: dict[str, Any], folder: Path) -> str:
    """Write the secrets that a pod mounts where Kubernetes puts them, below a folder, and return that."""
    volumes = {each["name"]: each["secret"]["items"] for each in pod["volumes"] if "secret" in each}
    (container,) = pod["containers"]
    for mount in container["volumeMounts"]:
        for item in volumes.get(mount["name"], ()):
            file = folder / Path(mount["mountPath"]).relative_to("/run/secrets") / item["path"]
            file.parent.mkdir(exist_ok=True)
            file.write_text("a-password-of-at-least-32-characters")
    return str(folder)


def test_settings_are_settings(manifests: list[Manifest], tmp_path: Path) -> None:
    """Every HITLEDGER_ variable is one, with a value that is allowed, and no service link gets among them."""
    (map_of_settings,) = of_kind(manifests, "ConfigMap")
    for _, pod, labels in workloads(manifests):
        assert pod["enableServiceLinks"] is False
        if labels["app.kubernetes.io/name"] != "hitledger":
            continue
        (container,) = pod["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": map_of_settings["metadata"]["name"]}}]
        given = {each["name"]: each["value"] for each in container.get("env", ())}
        secrets = mounted(pod, tmp_path)
        values = {name: text.replace("/run/secrets", secrets) for name, text in map_of_settings["data"].items()}
        settings = Settings.from_environment({**values, **given, "HITLEDGER_HOST": "0.0.0.0"})
        assert "a-password" in str(settings.redis_url)
        assert settings.auth_mode == "keys"
        assert all(name.startswith(PREFIX) for name in given)


def test_secrets_are_by_reference(manifests: list[Manifest]) -> None:
    """No manifest holds a secret; each that is asked for is one that the README says how to make."""
    assert not of_kind(manifests, "Secret")
    text = json.dumps(manifests)
    readme = (FOLDER / "README.md").read_text()
    assert "://:" not in text
    asked = set()
    for _, pod, _ in workloads(manifests):
        for container in pod["containers"]:
            sources = [each.get("valueFrom", {}).get("secretKeyRef") for each in container.get("env", ())]
            asked |= {(each["name"], each["key"]) for each in sources if each}
        for secret in (each["secret"] for each in pod["volumes"] if "secret" in each):
            asked |= {(secret["secretName"], each["key"]) for each in secret["items"]}
    assert asked <= {("hitledger", key) for key in SECRET_KEYS}
    assert all(f"--from-literal={key}=" in readme for _, key in asked)


def test_whoever_is_selected_is_there(manifests: list[Manifest]) -> None:
    """Services, budgets, policies and scalers name pods, ports and workloads that exist."""
    running = {name: labels for name, _, labels in workloads(manifests)}
    ports = {port["name"] for _, pod, _ in workloads(manifests) for each in pod["containers"]
             for port in each.get("ports", ())}  # fmt: skip
    for service in of_kind(manifests, "Service"):
        assert any(service["spec"]["selector"].items() <= labels.items() for labels in running.values())
        assert all(port["targetPort"] in ports for port in service["spec"]["ports"])
    for each in of_kind(manifests, "PodDisruptionBudget"):
        assert any(selects(each["spec"]["selector"], labels) for labels in running.values())
    for each in of_kind(manifests, "StatefulSet"):
        assert each["spec"]["serviceName"] in {one["metadata"]["name"] for one in of_kind(manifests, "Service")}
    for each in of_kind(manifests, "HorizontalPodAutoscaler"):
        (target,) = of_kind(manifests, each["spec"]["scaleTargetRef"]["kind"])
        assert target["metadata"]["name"] == each["spec"]["scaleTargetRef"]["name"]
        assert "replicas" not in target["spec"], "applying it would undo what the scaler did"


def test_nobody_talks_to_anybody_else(manifests: list[Manifest]) -> None:
    """Everything is refused first; no rule lets a pod out to everywhere, and each is about pods that exist."""
    policies = of_kind(manifests, "NetworkPolicy")
    everything = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert everything in [each["spec"] for each in policies]
    labels = [each for _, _, each in workloads(manifests)]
    for spec in (each["spec"] for each in policies):
        assert any(selects(spec["podSelector"], each) for each in labels)
        for rule in [*spec.get("egress", ()), *spec.get("ingress", ())]:
            assert rule.get("to") or rule.get("from")
            assert rule["ports"]
        assert all("0.0.0.0/0" not in json.dumps(rule) for rule in spec.get("egress", ()))


def test_the_journal_outlives_its_pod(manifests: list[Manifest]) -> None:
    """The web pods' data folder is a claimed disk of their own, which is kept when they go."""
    (web,) = (each for each in of_kind(manifests, "StatefulSet") if each["metadata"]["name"] == "hitledger-web")
    (claim,) = web["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    (container,) = web["spec"]["template"]["spec"]["containers"]
    assert {"name": claim["metadata"]["name"], "mountPath": "/data"} in container["volumeMounts"]
    assert set(web["spec"]["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}


def test_probes_ask_for_what_there_is(manifests: list[Manifest]) -> None:
    """A dead process is started anew, one that cannot answer gets no requests, and both are given time."""
    pods = {name: pod for name, pod, _ in workloads(manifests)}
    (container,) = pods["hitledger-web"]["containers"]
    asked = [container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")]
    assert asked == ["/livez", "/livez", "/readyz"]
    (settings,) = of_kind(manifests, "ConfigMap")
    ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
    assert ports == {"http": str(Settings.port), "admin": settings["data"]["HITLEDGER_ADMIN_PORT"]}
    assert container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"] >= 60


@pytest.mark.slow
def test_a_pod_posts_before_it_goes(settings: Settings, store: LedgerStore) -> None:
    """SIGTERM to `hitledger web` ends it within the pod's grace less what preStop takes, with every hit booked."""
    web = next(each for each in render(FOLDER / "base") if each["kind"] == "StatefulSet")
    pod = web["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    grace = pod["terminationGracePeriodSeconds"] - container["lifecycle"]["preStop"]["sleep"]["seconds"]
    environment = {
        "HITLEDGER_REDIS_URL": str(settings.redis_url),
        "HITLEDGER_DATA_DIR": str(settings.data_dir),
        "HITLEDGER_KEY_PREFIX": settings.key_prefix,
        "HITLEDGER_PORT": str(free_port()),
        "HITLEDGER_WORKERS": "2",
        # So that nothing is posted before the end.
        "HITLEDGER_POSTING_INTERVAL_MS": "60000",
    }
    with Running([sys.executable, "-m", *container["command"]], environment) as running:
        served = Settings.from_environment(environment)
        wait_until(lambda: answers_http(served))
        for _ in range(50):
            with urllib.request.urlopen(f"{served.own_url}/api/going/", timeout=20) as answer:
                assert answer.status == 200
        assert running.end(signal.SIGTERM, seconds=grace) == 0
    assert store.reader(0).zscore(store.set_key(0), "/api/going/") == 50
