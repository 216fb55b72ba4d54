"""The PromQL of the board, the alerts and the adapter, and what it asks for."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import yaml

ROOT = Path(__file__).parent.parent.parent
FILES = ROOT / "deploy" / "helm" / "files"
# Of machines with GPUs alone (Triton's documentation, "GPU metrics"): no scrape of a CPU has them.
GPU_METRICS = {
    "nv_gpu_utilization",
    "nv_gpu_memory_total_bytes",
    "nv_gpu_memory_used_bytes",
}


@dataclasses.dataclass(frozen=True)
class Query:
    """One expression, and where it stands."""

    place: str
    text: str

    def metrics(self) -> set[str]:
        """The names of all metrics in it; ValueError when it does not parse."""
        return {str(selector.name) for selector in selectors(promql_parser.parse(self.text))}


def selectors(part: Any) -> Iterator[Any]:
    """All vector selectors of a parsed expression."""
    if isinstance(part, promql_parser.VectorSelector):
        yield part
    for name in ("args", "expr", "lhs", "rhs", "vector_selector"):
        below = getattr(part, name, [])
        for child in below if isinstance(below, list) else [below]:
            yield from selectors(child)


def board() -> dict[str, Any]:
    """The Grafana board."""
    loaded = json.loads((FILES / "dashboard.json").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def board_queries(interval: str = "1m") -> list[Query]:
    """The board's queries as Grafana sends them with everything chosen."""
    found = []
    for panel in board()["panels"]:
        for target in panel.get("targets", []):
            text = target["expr"].replace("$__rate_interval", interval)
            text = re.sub(r"\$(namespace|instance)\b", ".*", text)
            assert "$" not in text, text
            found.append(Query(f"board: {panel['title']}", text))
    return found


def alert_rules() -> list[dict[str, Any]]:
    """All alerting rules."""
    loaded = yaml.safe_load((FILES / "alerts.yaml").read_text(encoding="utf-8"))
    return [rule for group in loaded["groups"] for rule in group["rules"]]


def alert_queries() -> list[Query]:
    """The alerts' expressions."""
    return [Query(f"alert: {rule['alert']}", rule["expr"]) for rule in alert_rules()]


def adapter_rules() -> dict[str, list[dict[str, Any]]]:
    """The rules of the Prometheus adapter: ``custom`` and ``external``."""
    rules = yaml.safe_load((FILES / "adapter-values.yaml").read_text(encoding="utf-8"))["rules"]
    assert isinstance(rules, dict)
    return rules


def adapter_queries(matchers: str = "", group: str = "pod") -> list[Query]:
    """The adapter's queries with its marks filled in."""
    found = []
    for rule in (rule for rules in adapter_rules().values() for rule in rules):
        series = rule["seriesQuery"].partition("{")[0]
        text = rule["metricsQuery"].replace("<<.Series>>", series)
        text = text.replace("<<.LabelMatchers>>,", f"{matchers}," if matchers else "")
        text = text.replace("<<.LabelMatchers>>", matchers).replace("<<.GroupBy>>", group)
        found.append(Query(f"adapter: {rule['name']['as']}", text))
    return found
