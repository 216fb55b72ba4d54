"""Writes deploy/manifests: the Helm chart rendered for each of its example values.

    python tools/render_manifests.py           # rewrite the manifests
    python tools/render_manifests.py --check   # exit 1 if one of them is stale

Helm itself renders: the package helm-python-sdk carries its library (Linux on x86-64).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).parent.parent
CHART = ROOT / "deploy" / "helm"
EXAMPLES = CHART / "examples"
MANIFESTS = ROOT / "deploy" / "manifests"
RELEASE = "speech"
# What only Helm does or says.
HELMS_OWN = ("helm.sh/", "app.kubernetes.io/managed-by")


def rendered(values: dict[str, Any], release: str = RELEASE) -> list[dict[str, Any]]:
    """The chart's objects, by template and as they stand in it; HelmError says what is wrong."""
    with helm_python.Chart.load(str(CHART)) as chart:
        texts = chart.render(values, name=release, namespace="default")
    objects: list[dict[str, Any]] = []
    for name in sorted(texts):
        if name.endswith(".yaml"):
            objects += [found for found in yaml.safe_load_all(texts[name]) if found]
    return objects


def example(name: str) -> dict[str, Any]:
    """Example values of the chart."""
    values = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


def examples() -> list[str]:
    """The names of all example values."""
    return sorted(path.stem for path in EXAMPLES.glob("*.yaml"))


def manifest(name: str) -> str:
    """The text of one file of deploy/manifests."""
    objects = [_without_helm(found) for found in rendered(example(name))]
    head = (
        f"# Made by tools/render_manifests.py from deploy/helm with examples/{name}.yaml.\n"
        "# Apply it with: kubectl apply -n NAMESPACE -f FILE (docs/kubernetes.md).\n---\n"
    )
    return head + yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=1_000_000)


def _without_helm(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_helm(part) for part in value]
    if not isinstance(value, dict):
        return value
    kept = {k: _without_helm(v) for k, v in value.items() if not k.startswith(HELMS_OWN)}
    return {k: v for k, v in kept.items() if v != {} or value[k] == {}}


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as such."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def main() -> int:
    """Rewrite or check; the exit code."""
    wanted = {f"{name}.yaml": manifest(name) for name in examples()}
    present = {path.name: path.read_text(encoding="utf-8") for path in MANIFESTS.glob("*.yaml")}
    if wanted == present:
        return 0
    if "--check" in sys.argv:
        stale = sorted(n for n in wanted.keys() | present.keys() if wanted.get(n) != present.get(n))
        sys.stderr.write(f"stale: {', '.join(stale)}; run python tools/render_manifests.py\n")
        return 1
    MANIFESTS.mkdir(parents=True, exist_ok=True)
    for name in present.keys() - wanted.keys():
        (MANIFESTS / name).unlink()
    for name, text in wanted.items():
        (MANIFESTS / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
