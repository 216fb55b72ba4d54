"""The Helm chart: what it renders for its examples and odd values, and how it fits the image."""

from __future__ import annotations

import json
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import jsonschema
import kubernetes_validate
import pytest
import yaml
from deploy.promtool import program
from deploy.queries import FILES, adapter_rules

import gsv
from gsv.serving.server import launcher
from gsv.serving.server.options import trace_endpoint
from gsv_client.cli import main as command
from gsv_client.cli import probe
from gsv_client.gateway import serving as gateway_serving
from gsv_client.transport import Endpoint

if platform.machine() != "x86_64":
    pytest.skip("NOT RUN: helm-python-sdk has a wheel for x86-64 alone", allow_module_level=True)

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import helm_python  # noqa: E402
import render_manifests  # noqa: E402
from render_manifests import CHART, example, rendered  # noqa: E402

EXAMPLES = render_manifests.examples()
KUBERNETES = ("1.27", "1.31", "1.37")  # the oldest that Chart.yaml allows, one between, the newest
OPERATORS = {"PodMonitor", "PrometheusRule"}  # custom resources of the Prometheus operator
MODELS_LOAD = {"repository": {"hostPath": "/srv/models"}, "gateway": {"open": True}}
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = dict(base)
    for name, value in changes.items():
        inner = isinstance(value, dict) and isinstance(both.get(name), dict)
        both[name] = merged(both[name], value) if inner else value
    return both


def objects(changes: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return rendered(merged(MODELS_LOAD, changes or {}))


def one(found: list[dict[str, Any]], kind: str, component: str = "") -> dict[str, Any]:
    (only,) = [
        o
        for o in found
        if o["kind"] == kind
        and component in ("", o["metadata"]["labels"].get("app.kubernetes.io/component"))
    ]
    return only


def pod(found: list[dict[str, Any]], component: str = "triton") -> dict[str, Any]:
    spec = one(found, "Deployment", component)["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def container(found: list[dict[str, Any]], component: str = "triton") -> dict[str, Any]:
    (only,) = pod(found, component)["containers"]
    assert isinstance(only, dict)
    return only


each_example = pytest.mark.parametrize("name", EXAMPLES)


# The chart as Helm and Kubernetes see it


def test_there_are_the_three_examples() -> None:
    assert EXAMPLES == ["cpu-small", "many-gpus", "one-gpu"]


def test_helm_lint_has_nothing_to_say() -> None:
    findings = helm_python.lint(str(CHART))
    assert findings["errors"] == []
    assert [m["error"] for m in findings["messages"]] == ["icon is recommended"]


@each_example
@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_every_object(name: str, version: str) -> None:
    found = rendered(example(name))
    assert len(found) > 5
    for thing in found:
        if thing["kind"] not in OPERATORS:
            kubernetes_validate.validate(thing, version, strict=True)


def test_kubernetes_refuses_what_is_wrong() -> None:
    deployment = one(rendered(example("one-gpu")), "Deployment", "triton")
    deployment["spec"]["template"]["spec"]["containers"][0]["livenessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.31", strict=True)


@each_example
def test_names_are_unique_and_belong_to_the_release(name: str) -> None:
    found = rendered(example(name))
    names = [(o["kind"], o["metadata"]["name"]) for o in found]
    assert len(names) == len(set(names))
    assert all(n.startswith(render_manifests.RELEASE) and len(n) <= 63 for _, n in names)
    assert all("namespace" not in o["metadata"] for o in found)


@each_example
def test_selectors_meet_pods(name: str) -> None:
    """Every service, budget, policy and monitor selects the pods of exactly one deployment."""
    found = rendered(example(name))
    pods = [o["spec"]["template"]["metadata"]["labels"] for o in found if o["kind"] == "Deployment"]
    looked = 0
    for thing in found:
        spec = thing.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector")
        if thing["kind"] in ("Deployment", "Job") or not selector:
            continue
        wanted = selector.get("matchLabels", selector)
        assert len([labels for labels in pods if wanted.items() <= labels.items()]) == 1, thing
        looked += 1
    assert looked >= 6


@each_example
def test_the_manifests_are_fresh(name: str) -> None:
    path = render_manifests.MANIFESTS / f"{name}.yaml"
    told = "run python tools/render_manifests.py"
    assert path.read_text(encoding="utf-8") == render_manifests.manifest(name), told


def test_no_manifest_is_left_over() -> None:
    assert sorted(path.stem for path in render_manifests.MANIFESTS.glob("*")) == EXAMPLES


def test_the_manifests_say_nothing_of_helm() -> None:
    for name in EXAMPLES:
        text = render_manifests.manifest(name).partition("---")[2]
        assert "helm" not in text.lower()


def test_the_versions_agree() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == chart["version"] == gsv.__version__


# Values


def schema() -> dict[str, Any]:
    loaded = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def test_the_schema_is_one_and_knows_every_value() -> None:
    jsonschema.Draft7Validator.check_schema(schema())
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

    def known(values: dict[str, Any], part: dict[str, Any], place: str) -> None:
        part = schema()["$defs"][part["$ref"].rsplit("/")[-1]] if "$ref" in part else part
        if "properties" not in part:
            return
        assert part["additionalProperties"] is False, place
        assert set(part["properties"]) - {"global"} == set(values), place
        for name, value in values.items():
            if isinstance(value, dict):
                known(value, part["properties"][name], f"{place}.{name}")

    known(values, merged(schema(), {}), "values")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"server": {"gpu": 1}}, "gpu"),
        ({"server": {"gpus": 2}}, "gpus"),
        ({"server": {"mps": "yes"}}, "mps"),
        ({"server": {"sharedMemory": "two"}}, "sharedMemory"),
        ({"gateway": {"open": "yes"}}, "open"),
        ({"repository": {"subPath": "/data"}}, "subPath"),
    ],
)
def test_the_schema_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(helm_python.HelmError, match=message):
        objects(changes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "repository: set exactly one of existingClaim, hostPath and demo; 0 are set"),
        (
            {"repository": {"demo": "tiny", "existingClaim": "a"}, "gateway": {"open": True}},
            "2 are set",
        ),
        ({"repository": {"demo": "tiny"}}, "gateway.keysSecret.name"),
        (
            merged(MODELS_LOAD, {"repository": {"prepare": {"enabled": True}}}),
            "set repository.existingClaim",
        ),
        (merged(MODELS_LOAD, {"server": {"gpus": 0, "mps": "auto"}}), "server.mps needs a GPU"),
        (
            merged(
                MODELS_LOAD, {"server": {"gpuResource": "nvidia.com/mig-1g.10gb", "mps": "auto"}}
            ),
            "MIG",
        ),
        (
            merged(MODELS_LOAD, {"server": {"preStopSeconds": 22}}),
            "server.preStopSeconds: 22 is too short for connections that live 20 s",
        ),
        (
            merged(MODELS_LOAD, {"autoscaling": {"enabled": True, "minReplicas": 9}}),
            "minReplicas is more than maxReplicas",
        ),
        (
            merged(
                MODELS_LOAD,
                {"autoscaling": {
                    "enabled": True, "requestsInFlight": 0, "firstAudioMilliseconds": 0,
                }},
            ),
            "no metric is left",
        ),
        (
            merged(MODELS_LOAD, {"server": {"tracing": {"url": "http://c:4318/v1/traces"}}}),
            "name the collector's pods in networkPolicy.tracesTo",
        ),
        (
            merged(MODELS_LOAD, {"gateway": {"ingress": {"enabled": True}}}),
            "gateway.ingress: set host",
        ),
        (
            {
                "repository": {"demo": "tiny"},
                "gateway": {"keysSecret": {"name": "k"}},
                "podMonitor": {"enabled": True},
            },
            "podMonitor.gatewayKeySecret.name",
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(helm_python.HelmError, match=re.escape(message)):
        rendered(values)


# The pods


@each_example
def test_pods_are_confined(name: str) -> None:
    for thing in rendered(example(name)):
        if thing["kind"] not in ("Deployment", "Job"):
            continue
        spec = thing["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        user = spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsGroup"]
        assert f"USER {user[0]}:{user[1]}\n" in DOCKERFILE
        assert spec["automountServiceAccountToken"] is False
        for part in (*spec["containers"], *spec.get("initContainers", [])):
            assert part["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert set(part["resources"]["requests"]) == {"cpu", "memory"}
            assert "memory" in part["resources"]["limits"]
            mounts = {m["mountPath"]: m for m in part["volumeMounts"]}
            # What is written without a mount would be written to the read-only root.
            variables = {v["name"]: v.get("value", "") for v in part["env"]}
            for variable in ("HOME", "XDG_CACHE_HOME", "TMPDIR"):
                assert variables.get(variable, "/tmp") in mounts
            assert "/tmp" in mounts
        declared = {volume["name"] for volume in spec["volumes"]}
        used = {
            m["name"]
            for part in (*spec["containers"], *spec.get("initContainers", []))
            for m in part["volumeMounts"]
        }
        assert declared == used


def test_shared_memory_is_memory_and_begins_empty() -> None:
    found = objects({"server": {"sharedMemory": "3Gi"}})
    volumes = {volume["name"]: volume for volume in pod(found)["volumes"]}
    assert volumes["shared-memory"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "3Gi"}
    shell, flag, script, _ = container(found)["command"]
    assert (shell, flag) == ("sh", "-c")
    assert script.startswith("rm -rf /dev/shm/*")
    assert script.endswith('exec "$@"'), "signals must reach gsv serve"


@pytest.mark.parametrize(("before", "drain"), [(25, 30), (23, 0), (40, 120)])
def test_a_pod_is_given_the_time_that_its_drain_may_take(before: int, drain: int) -> None:
    found = objects({"server": {"preStopSeconds": before, "exitTimeout": drain}})
    told = container(found)
    assert told["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", str(before)]
    assert f"--exit-timeout={drain}" in told["args"]
    wait = pod(found)["terminationGracePeriodSeconds"]
    assert before + drain + launcher.UNLOAD_SECONDS < wait <= before + drain + 20
    gateway = pod(found, "gateway")["terminationGracePeriodSeconds"]
    assert gateway > 10 + gateway_serving.DRAIN_SECONDS


def test_connections_without_an_end_need_no_time_to_leave() -> None:
    told = container(objects({"server": {"preStopSeconds": 5, "connectionAgeSeconds": 0}}))
    assert "max-connection-age" not in str(told["args"])
    assert "--grpc-max-connection-age=20000" in container(objects())["args"]


@pytest.mark.parametrize("seconds", [60, 600, 1800])
def test_kubernetes_waits_longer_than_gsv_serve_for_the_models(seconds: int) -> None:
    found = objects({"server": {"readyTimeout": seconds}})
    probe = container(found)["startupProbe"]
    assert f"--ready-timeout={seconds}" in container(found)["args"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > seconds
    assert one(found, "Deployment", "triton")["spec"]["progressDeadlineSeconds"] > seconds


def test_probes_ask_what_there_is() -> None:
    told = container(objects())
    ports = {port["name"]: port["containerPort"] for port in told["ports"]}
    (exposed,) = re.findall(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)
    assert {*ports.values(), 9880} == {int(port) for port in exposed.split()}
    for name in ("startupProbe", "readinessProbe"):
        assert told[name]["httpGet"] == {"path": "/v2/health/ready", "port": "http"}


@pytest.mark.parametrize("seconds", [60, 600])
def test_the_liveness_probe_lets_the_server_speak(seconds: int) -> None:
    told = container(objects({"server": {"readyTimeout": seconds}}))
    ports = {port["name"]: port["containerPort"] for port in told["ports"]}
    liveness = told["livenessProbe"]
    program, name, *arguments = liveness["exec"]["command"]
    group = command
    assert program == "gsv"
    assert isinstance(group, click.Group)
    found = group.get_command(click.Context(group), name)
    assert found is not None
    options = accepted(arguments, found)
    assert options["url"] == f"grpc://127.0.0.1:{ports['grpc']}"
    assert options["liveness"] == f"http://127.0.0.1:{ports['metrics']}/metrics"
    # The answer, and the metrics before and after it.
    assert float(options["timeout"]) + 2 * probe.METRICS_SECONDS < liveness["timeoutSeconds"]
    # `gsv serve` may start Triton again, which takes as long as the first start.
    assert liveness["periodSeconds"] * liveness["failureThreshold"] > seconds
    assert "--probe-seconds=60" in told["args"]


def test_callers_can_spread_their_calls_over_all_pods() -> None:
    found = objects()
    (headless,) = [o for o in found if o["kind"] == "Service" and "clusterIP" in o["spec"]]
    assert headless["spec"]["clusterIP"] == "None"
    (url,) = [a for a in container(found, "gateway")["args"] if a.startswith("--url=")]
    endpoint = Endpoint.parse(url.removeprefix("--url="), "grpc")
    assert endpoint.host == headless["metadata"]["name"]
    assert endpoint.balance
    assert endpoint.port in {port["port"] for port in headless["spec"]["ports"]}


def test_gpus_are_asked_for_as_they_are_called() -> None:
    assert container(objects())["resources"]["limits"]["nvidia.com/gpu"] == 1
    mig = container(objects({"server": {"gpuResource": "nvidia.com/mig-2g.20gb"}}))
    assert mig["resources"]["limits"]["nvidia.com/mig-2g.20gb"] == 1
    assert "nvidia" not in str(objects({"server": {"gpus": 0}}))


def test_weights_cannot_be_written_and_voices_only_if_asked_for() -> None:
    claims = {
        "repository": {"hostPath": "", "existingClaim": "weights"},
        "voices": {"existingClaim": "voices", "readOnly": False},
    }
    mounts = {m["name"]: m for m in container(objects(claims))["volumeMounts"]}
    assert mounts["repository"]["readOnly"] is True
    assert mounts["voices"]["readOnly"] is False
    # The models look for voices beside the repository.
    assert mounts["repository"]["mountPath"] == "/data/model_repository"
    assert mounts["voices"]["mountPath"] == "/data/voices"
    assert {m["name"]: m for m in container(objects())["volumeMounts"]}["voices"]["readOnly"]


def test_the_replicas_are_the_autoscalers_matter() -> None:
    scaled = objects({"autoscaling": {"enabled": True}, "server": {"replicas": 7}})
    assert "replicas" not in one(scaled, "Deployment", "triton")["spec"]
    found = objects({"server": {"replicas": 7}})
    assert one(found, "Deployment", "triton")["spec"]["replicas"] == 7
    assert "HorizontalPodAutoscaler" not in {o["kind"] for o in found}


def test_the_autoscaler_asks_for_metrics_that_the_adapter_makes() -> None:
    scaler = one(rendered(example("many-gpus")), "HorizontalPodAutoscaler")
    wanted: dict[str, set[str]] = {"Pods": set(), "External": set()}
    for metric in scaler["spec"]["metrics"]:
        wanted[metric["type"]].add(metric[metric["type"].lower()]["metric"]["name"])
    made = {kind: {r["name"]["as"] for r in rules} for kind, rules in adapter_rules().items()}
    assert wanted == {"Pods": made["custom"], "External": made["external"]}


# The network


def test_only_the_gateway_reaches_triton() -> None:
    policy = one(objects(), "NetworkPolicy", "triton")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy
    callers, readers = policy["ingress"]
    assert callers["ports"] == [{"protocol": "TCP", "port": "grpc"}]
    (peer,) = callers["from"]
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "gateway"
    assert "namespaceSelector" not in peer
    assert readers["ports"] == [{"protocol": "TCP", "port": "metrics"}]


def test_spans_go_to_the_collector_that_is_named() -> None:
    url = "http://collector.tracing:4318/v1/traces"
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "tracing"}}}]
    changes = {
        "server": {"tracing": {"url": url, "rate": 7}},
        "networkPolicy": {"tracesTo": peers},
    }
    found = objects(changes)
    told = container(found)["args"]
    assert trace_endpoint(told[told.index("--") + 1 :]) == url
    assert "--trace-config=rate=7" in told
    to, names = one(found, "NetworkPolicy", "triton")["spec"]["egress"]
    assert to["to"] == peers
    assert {port["port"] for port in names["ports"]} == {53}
    assert not [a for a in container(objects())["args"] if "trace" in a]


def test_without_a_gateway_nobody_reaches_triton_unless_named() -> None:
    closed = {"gateway": {"enabled": False}, "networkPolicy": {"metricsFrom": []}}
    assert not one(objects(closed), "NetworkPolicy")["spec"]["ingress"]
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "calls"}}}]
    opened = merged(closed, {"networkPolicy": {"tritonFrom": peers}})
    (rule,) = one(objects(opened), "NetworkPolicy")["spec"]["ingress"]
    assert rule["from"] == peers
    assert {port["port"] for port in rule["ports"]} == {"http", "grpc"}


def test_policies_can_be_left_out() -> None:
    kinds = {o["kind"] for o in objects({"networkPolicy": {"enabled": False}})}
    assert "NetworkPolicy" not in kinds


# Custom resources of the Prometheus operator


def test_the_monitors_read_ports_that_the_pods_have() -> None:
    found = rendered(example("many-gpus"))
    monitors = {
        o["metadata"]["labels"]["app.kubernetes.io/component"]: o["spec"]["podMetricsEndpoints"]
        for o in found
        if o["kind"] == "PodMonitor"
    }
    assert set(monitors) == {"triton", "gateway"}
    for component, (endpoint,) in monitors.items():
        assert endpoint["port"] in {p["name"] for p in container(found, component)["ports"]}
        targets = {relabeling["targetLabel"] for relabeling in endpoint["relabelings"]}
        assert targets == {"instance", "release"}
    assert monitors["gateway"][0]["authorization"]["credentials"]["name"] == "gateway-metrics"
    assert "authorization" not in monitors["triton"][0]


def test_the_rule_and_the_board_are_the_files() -> None:
    found = rendered(example("many-gpus"))
    alerts = yaml.safe_load((FILES / "alerts.yaml").read_text(encoding="utf-8"))
    assert one(found, "PrometheusRule")["spec"] == alerts
    (text,) = one(found, "ConfigMap")["data"].values()
    board = json.loads((FILES / "dashboard.json").read_text(encoding="utf-8"))
    assert json.loads(text) == board


# The image


def accepted(arguments: list[str], name: click.Command) -> dict[str, Any]:
    """The options of a command line; click's error when one of them does not exist."""
    options, _, _ = name.make_parser(click.Context(name)).parse_args(list(arguments))
    return dict(options)


@each_example
def test_the_commands_of_the_pods_are_the_images(name: str) -> None:
    looked = 0
    for thing in rendered(example(name)):
        if thing["kind"] not in ("Deployment", "Job"):
            continue
        spec = thing["spec"]["template"]["spec"]
        for part in (*spec["containers"], *spec.get("initContainers", [])):
            words = [*part["command"], *part["args"]]
            words = words[words.index("gsv") + 1 :]
            assert words[0] in ("serve", "gateway", "prepare")
            group = command
            assert isinstance(group, click.Group)
            found = group.get_command(click.Context(group), words[0])
            assert found is not None
            assert accepted(words[1:], found)
            looked += 1
    assert looked >= 2


def test_the_server_runs_as_in_the_image() -> None:
    (line,) = re.findall(r"^CMD (\[.*?\])$", DOCKERFILE.replace("\\\n", ""), re.MULTILINE)
    image = json.loads(line)
    args = shlex.join(container(objects())["args"])
    assert image[:3] == ["gsv", "serve", "/data/model_repository"]
    assert args.startswith(shlex.join(image[:3]))
    assert f"--tritonserver={image[-1]}" in args
    assert f"--host={image[4]}" in args


# The alerts as the operator's rule


def test_promtool_accepts_the_rendered_rule(tmp_path: Path) -> None:
    rule = one(rendered(example("many-gpus")), "PrometheusRule")
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rule["spec"]), encoding="utf-8")
    done = subprocess.run(
        [program("promtool"), "check", "rules", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
