"""The Kubernetes manifests against schemas: Kubernetes' own for what is its own, ours for the operators' (tests/manifests/schemas).

`make test-manifests` fetches the package that holds Kubernetes' schemas; this reads files and nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from swarm.config.schema import ObserverSection
from tests.support.sources import ROOT

FOLDER = ROOT / "config" / "kubernetes"
MANIFESTS: dict[str, dict[str, Any]] = {path.stem: yaml.safe_load(path.read_text()) for path in FOLDER.glob("*.yaml")}
OURS = {path.stem: json.loads(path.read_text()) for path in Path(__file__).with_name("schemas").glob("*.json")}
VERSIONS = ("1.27", kubernetes_validate.latest_version())
"""From the oldest with a PodDisruptionBudget and a StatefulSet as we write them, to the newest that the package knows."""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", sorted(MANIFESTS.keys() - OURS.keys()))
def test_kubernetes_knows_every_field(name: str, version: str) -> None:
    """Strictly: a field that it would ignore is one that we have misspelled."""
    kubernetes_validate.validate(MANIFESTS[name], version, strict=True)


@pytest.mark.parametrize("name", sorted(OURS))
def test_operators_know_every_field(name: str) -> None:
    """ScaledObject and PodMonitor."""
    jsonschema.Draft202012Validator.check_schema(OURS[name])

    jsonschema.Draft202012Validator(OURS[name]).validate(MANIFESTS[name])


@pytest.mark.parametrize(
    ("name", "where"), [("statefulset", ("spec", "template", "spec")), ("scaledobject", ("spec",))]
)
def test_a_misspelled_field_is_found(name: str, where: tuple[str, ...]) -> None:
    """Otherwise the tests above would be green with anything."""
    wrong = json.loads(json.dumps(MANIFESTS[name]))
    place = wrong
    for key in where:
        place = place[key]
    place["terminationGracePeriod"] = 50

    def check() -> None:
        if name in OURS:
            jsonschema.Draft202012Validator(OURS[name]).validate(wrong)
        else:
            kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)

    with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
        check()


def test_manifests_mean_the_same_pods() -> None:
    """One name, one set of labels, one port: what selects or scales the pods finds those of the StatefulSet."""
    pods = MANIFESTS["statefulset"]["spec"]["template"]
    labels, [container] = pods["metadata"]["labels"], pods["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    environment = {each["name"]: each.get("value") for each in container["env"]}

    assert {manifest["metadata"]["name"] for manifest in MANIFESTS.values()} == {"shop"}
    assert MANIFESTS["service"]["spec"]["selector"] == labels
    assert MANIFESTS["statefulset"]["spec"]["serviceName"] == "shop"
    for name in ("statefulset", "poddisruptionbudget", "podmonitor"):
        assert MANIFESTS[name]["spec"]["selector"]["matchLabels"] == labels
    assert ports == {"http": ObserverSection().port}
    assert [each["port"] for each in MANIFESTS["podmonitor"]["spec"]["podMetricsEndpoints"]] == ["http"]
    target = MANIFESTS["scaledobject"]["spec"]["scaleTargetRef"]
    assert target == {key: MANIFESTS["statefulset"][key] for key in ("apiVersion", "kind")} | {"name": "shop"}
    [trigger] = MANIFESTS["scaledobject"]["spec"]["triggers"]
    assert trigger["metadata"]["bootstrapServers"] == environment["SWARM_KAFKA__BOOTSTRAP_SERVERS"]
    least = MANIFESTS["scaledobject"]["spec"]["minReplicaCount"]
    assert 0 < MANIFESTS["poddisruptionbudget"]["spec"]["maxUnavailable"] < least
