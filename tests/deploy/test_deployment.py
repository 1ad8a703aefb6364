"""The deployment files: valid by their own schemas, and every process starts with exactly their words."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from streams.settings import load_settings
from streams.topics import TOPICS

DEPLOY = Path(__file__).parents[2] / "deploy"
MODELWARDEN = Path(sys.executable).with_name("modelwarden")
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
FOREIGN = {"Kustomization", "ScaledObject"}
"""Kinds that are not Kubernetes' own."""


def resources() -> list[dict[str, Any]]:
    return [one for path in KUBERNETES for one in yaml.safe_load_all(path.read_text()) if one]


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
    return loaded


def own_services() -> dict[str, dict[str, Any]]:
    return {name: one for name, one in compose()["services"].items() if one["image"] == "modelwarden"}


def pods() -> list[dict[str, Any]]:
    return [one["spec"]["template"]["spec"] for one in resources() if one["kind"] in {"StatefulSet", "Job"}]


def test_the_dockerfile_passes_hadolint() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, DEPLOY / "image" / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
    assert done.returncode == 0, done.stderr


def test_the_image_s_build_copies_what_exists() -> None:
    text = (DEPLOY / "image" / "Dockerfile").read_text()
    root = DEPLOY.parent
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        *sources, _ = [word for word in line.split() if not word.startswith("--")]
        for source in sources:
            assert (root / source).exists(), source
            kept = (root / ".dockerignore").read_text().splitlines()
            assert f"!{source.split('/')[0]}" in kept, f"{source} is kept out by .dockerignore"
    assert "USER 10001" in text


def test_the_compose_file_is_one() -> None:
    # Found, not imported: the package's own command line wants another click.
    vendored = "check_jsonschema/builtin_schemas/vendor/compose-spec.json"
    schema = json.loads(Path(str(distribution("check-jsonschema").locate_file(vendored))).read_text())
    errors = [error.message for error in Draft202012Validator(schema).iter_errors(compose())]
    assert errors == []


def test_the_compose_file_mounts_what_exists_and_gives_little_away() -> None:
    services = compose()["services"]
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith(".") and "profiles" not in service:
                assert (DEPLOY / "compose" / source).exists(), f"{name} mounts {source}"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is open to the network by {port}"
    for name, service in own_services().items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"]
        assert service["user"] == "10001:10001"


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_the_manifests_are_valid(path: Path) -> None:
    checked = 0
    for resource in yaml.safe_load_all(path.read_text()):
        if resource["kind"] in FOREIGN:
            assert {"apiVersion", "kind"} <= resource.keys()
            continue
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
        checked += 1
    assert checked or path.name in {"kustomization.yaml", "scaling.yaml"}


def test_the_manifests_fit_together() -> None:
    by_kind = {(one["kind"], one.get("metadata", {}).get("name")): one for one in resources()}
    listed = by_kind["Kustomization", None]["resources"]
    assert {path.name for path in KUBERNETES} == {*listed, "kustomization.yaml", "scaling.yaml"}
    worker = by_kind["StatefulSet", "worker"]["spec"]
    labels = worker["template"]["metadata"]["labels"]
    for place in (
        worker["selector"]["matchLabels"],
        by_kind["Service", "worker"]["spec"]["selector"],
        by_kind["PodDisruptionBudget", "worker"]["spec"]["selector"]["matchLabels"],
    ):
        assert place.items() <= labels.items()
    scaled = by_kind["ScaledObject", "worker"]["spec"]
    partitions = by_kind["Job", "modelwarden-topics"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert str(scaled["maxReplicaCount"]) == partitions[partitions.index("--partitions") + 1]
    assert worker["replicas"] <= scaled["maxReplicaCount"]
    topic = scaled["triggers"][0]["metadata"]["topic"]
    settings = load_settings(None, {})
    assert topic == settings.topic("events")
    assert scaled["triggers"][0]["metadata"]["consumerGroup"] == settings.consumer_group


def test_pods_are_restricted() -> None:
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            mounts = {mount["name"] for mount in container["volumeMounts"]}
            assert mounts == {volume["name"] for volume in pod["volumes"]}
            assert "kernels" in mounts, "kernels need somewhere to be written"


def starts() -> list[tuple[str, list[str], dict[str, str]]]:
    """Return what each manifest starts: name, arguments, environment, with no broker there."""
    found = []
    for name, service in own_services().items():
        found.append((f"compose-{name}", service["command"], dict(service["environment"])))
    for pod in pods():
        for container in pod["containers"]:
            environment = {one["name"]: one.get("value", "worker-0") for one in container["env"]}
            found.append((f"kubernetes-{container['name']}", container["args"], environment))
    return found


@pytest.mark.parametrize(("words", "environment"), [s[1:] for s in starts()], ids=[s[0] for s in starts()])
def test_every_process_starts_with_the_manifest_s_words(
    words: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    if words[0] == "sidecar" and not (DEPLOY.parent / "streams" / "cli" / "sidecar.py").exists():
        pytest.skip("there is no sidecar yet")
    settings = next(one for one in resources() if one["kind"] == "ConfigMap")["data"]["modelwarden.yaml"]
    (tmp_path / "modelwarden.yaml").write_text(settings)
    if "MODELWARDEN_SETTINGS" in environment:
        environment = {**environment, "MODELWARDEN_SETTINGS": str(tmp_path / "modelwarden.yaml")}
    environment = {**environment, "MODELWARDEN_KAFKA": "127.0.0.1:1", "MODELWARDEN_METRICS__PORT": "19464"}
    if words[0] == "sidecar":
        words = [*words, "--help"]
    done = subprocess.run(
        [MODELWARDEN, *words], env={**os.environ, **environment}, capture_output=True, text=True, check=False,
        timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode != 2, done.stderr
    assert "127.0.0.1:1" in done.stderr or words[-1] == "--help", "it got as far as the broker"


def test_access_rules_name_the_topics_there_are() -> None:
    script = DEPLOY / "kafka" / "acls.sh"
    said = subprocess.run(["sh", script, "b:1", "x."], capture_output=True, text=True, check=True).stdout
    named = set(re.findall(r"--topic x\.(\S+)", said))
    assert named == {topic.name for topic in TOPICS}
    serving = [line for line in said.splitlines() if "modelwarden-serving" in line]
    assert not any("alerts" in line or "decisions" in line for line in serving)


def test_provisioned_dashboards_ask_the_provisioned_source() -> None:
    sources = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    names = {source["uid"] for source in sources["datasources"]}
    assert "prometheus" in names
