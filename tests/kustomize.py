"""As much of kustomize as deploy/kubernetes uses, for machines without kubectl; a field it does not know fails.

Where there is a kubectl, a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]
CLUSTER_WIDE = {"Namespace"}


def render(folder: Path) -> list[Manifest]:
    """Return the manifests that `kubectl kustomize` makes of a folder, in the order of its resources."""
    wanted: dict[str, Any] = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert wanted.pop("kind") == "Kustomization"
    assert wanted.pop("apiVersion") == "kustomize.config.k8s.io/v1beta1"
    manifests: list[Manifest] = []
    for name in wanted.pop("resources"):
        path = folder / name
        manifests += render(path) if path.is_dir() else yaml.safe_load_all(path.read_text())
    for patch in wanted.pop("patches", ()):
        target = patch["target"]
        operations = json.loads((folder / patch["path"]).read_text())
        _patch(_named(manifests, target["name"], {target["kind"]}), operations)
    for replicas in wanted.pop("replicas", ()):
        found = _named(manifests, replicas["name"], {"Deployment", "StatefulSet"})
        found["spec"]["replicas"] = replicas["count"]
    namespace = wanted.pop("namespace")
    for manifest in manifests:
        if manifest["kind"] not in CLUSTER_WIDE:
            manifest["metadata"]["namespace"] = namespace
    images = {each["name"]: f"{each['newName']}:{each['newTag']}" for each in wanted.pop("images", ())}
    for container in (each for manifest in manifests for each in containers_of(manifest)):
        container["image"] = images.get(container["image"], container["image"])
    assert not wanted, f"not known here: {list(wanted)}"
    return manifests


def containers_of(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Yield the containers of a manifest that has pods."""
    pod = manifest.get("spec", {}).get("template", {}).get("spec", {})
    yield from pod.get("containers", ())
    yield from pod.get("initContainers", ())


def _named(manifests: list[Manifest], name: str, kinds: set[str]) -> Manifest:
    (found,) = (each for each in manifests if each["metadata"]["name"] == name and each["kind"] in kinds)
    return found


def _patch(manifest: Manifest, operations: list[dict[str, Any]]) -> None:
    """Apply a JSON patch (RFC 6902) whose paths go through objects and lists by name and number."""
    for operation in operations:
        *way, last = operation["path"].lstrip("/").split("/")
        inside: Any = manifest
        for step in way:
            inside = inside[int(step)] if isinstance(inside, list) else inside[step]
        if operation["op"] == "remove":
            del inside[last]
        else:
            assert operation["op"] == "add" or last in inside, f"there is no {operation['path']} to replace"
            inside[last] = operation["value"]
