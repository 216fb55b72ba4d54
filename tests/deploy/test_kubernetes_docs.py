"""docs/kubernetes.md: its values, alerts, seconds and objects are those of the chart."""

from __future__ import annotations

import platform
import re
import textwrap
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from deploy.queries import adapter_rules, alert_rules

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "deploy" / "helm"
PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))


def test_values_that_are_named_exist() -> None:
    named = {
        name
        for name in re.findall(r"`([a-z]\w+(?:\.\w+)+)`", PAGE)
        if name.partition(".")[0] in VALUES and not name.endswith(".json")
    }
    assert len(named) > 25
    for name in named:
        value: Any = VALUES
        for part in name.split("."):
            assert part in value, name
            value = value[part]


def test_alerts_are_all_told() -> None:
    rows = re.findall(r"^\| `(Gsv\w+)` \| (\w+) \|", PAGE, re.MULTILINE)
    assert rows == [(rule["alert"], rule["labels"]["severity"]) for rule in alert_rules()]


def test_metrics_of_the_adapter_are_told() -> None:
    for rule in (rule for rules in adapter_rules().values() for rule in rules):
        assert f"- `{rule['name']['as']}`: " in PAGE


def test_objects_that_are_shown_are_valid() -> None:
    texts = re.findall(r"^( *)```yaml\n(.*?)^\1```", PAGE, re.MULTILINE | re.DOTALL)
    objects = [o for _, text in texts for o in yaml.safe_load_all(textwrap.dedent(text))]
    assert len(objects) >= 2
    for thing in objects:
        kubernetes_validate.validate(thing, "1.31", strict=True)


def test_secrets_and_claims_of_the_examples_are_made() -> None:
    """Whatever an example asks for by name is made by a command or an object of the page."""
    asked: set[str] = set()
    for path in (CHART / "examples").glob("*.yaml"):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        for secret in (
            values["gateway"].get("keysSecret"),
            values["server"].get("controlKeySecret"),
            values.get("podMonitor", {}).get("gatewayKeySecret"),
        ):
            asked |= {f"create secret generic {secret['name']} "} if secret else set()
        for volume in ("repository", "voices"):
            claim = values.get(volume, {}).get("existingClaim")
            asked |= {f"metadata: {{name: {claim}}}"} if claim else set()
    assert len(asked) == 5
    assert [text for text in asked if text not in PAGE] == []


@pytest.mark.skipif(platform.machine() != "x86_64", reason="NOT RUN: no wheel of helm-python-sdk")
def test_the_seconds_are_the_charts() -> None:
    from deploy.test_chart import container, objects, pod

    found = objects()
    server = VALUES["server"]
    assert f"waits `server.preStopSeconds`, {server['preStopSeconds']}: " in PAGE
    assert f"at `server.connectionAgeSeconds`, {server['connectionAgeSeconds']}, have" in PAGE
    assert f"up to `server.exitTimeout`, {server['exitTimeout']} s" in PAGE
    assert f"and 5 s: {pod(found)['terminationGracePeriodSeconds']} s |" in PAGE
    assert f"| {pod(found, 'gateway')['terminationGracePeriodSeconds']} s |" in PAGE
    liveness = container(found)["livenessProbe"]
    every, times = liveness["periodSeconds"], liveness["failureThreshold"]
    assert f"`gsv probe --liveness` every {every} s, {times} times in a row" in PAGE
    assert f"(`server.readyTimeout`, {server['readyTimeout']} s, and a minute)" in PAGE
    assert f"`server.probeSeconds`, {server['probeSeconds']}, without a request" in PAGE
    scaling = VALUES["autoscaling"]
    assert f"(`autoscaling.requestsInFlight`, {scaling['requestsInFlight']})" in PAGE
    assert f"(`autoscaling.firstAudioMilliseconds`, {scaling['firstAudioMilliseconds']})" in PAGE


def test_names_of_the_release_are_those_that_the_page_uses() -> None:
    names = {
        o["metadata"]["name"]
        for o in yaml.safe_load_all(
            (ROOT / "deploy" / "manifests" / "cpu-small.yaml").read_text(encoding="utf-8")
        )
    }
    named = set(re.findall(r"(?:deployment|service)/([\w-]+)", PAGE))
    assert named
    assert named <= names
