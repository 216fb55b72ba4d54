"""Board, alerts and adapter rules: PromQL that parses, alerts that fire when they should."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from deploy.promtool import program
from deploy.queries import (
    FILES,
    GPU_METRICS,
    Query,
    adapter_queries,
    alert_queries,
    alert_rules,
    board,
    board_queries,
)

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
sys.path.insert(0, str(ROOT / "tools"))

import grafana_board  # noqa: E402

QUERIES = [*board_queries(), *alert_queries(), *adapter_queries()]
each_query = pytest.mark.parametrize("query", QUERIES, ids=lambda q: q.place)


def promtool(*arguments: str, folder: Path | None = None) -> str:
    command = [program("promtool"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@each_query
def test_queries_parse_and_ask_for_our_or_tritons_metrics(query: Query) -> None:
    metrics = query.metrics()
    assert metrics
    assert all(name.startswith(("gsv_", "nv_")) for name in metrics)


def test_what_a_query_asks_for_is_found() -> None:
    text = "sum(rate(a[5m])) / on (x) -(b > 1) unless absent(c) or max_over_time(d[5m:1m])"
    assert Query("", text).metrics() == {"a", "b", "c", "d"}
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        Query("", "sum(a").metrics()


def test_the_board_is_fresh() -> None:
    told = "run python tools/grafana_board.py"
    assert grafana_board.BOARD.read_text(encoding="utf-8") == grafana_board.text(), told


def test_panels_have_a_place_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    ids = set()
    for panel in board()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= grafana_board.COLUMNS
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        ids.add(panel["id"])
    assert len(ids) == len(board()["panels"])


def test_every_panel_follows_the_boards_variables() -> None:
    chosen = {variable["name"] for variable in board()["templating"]["list"]}
    assert chosen == {"datasource", "namespace", "instance"}
    for panel in board()["panels"]:
        for target in panel.get("targets", []):
            assert target["expr"].count(grafana_board.WHERE) == target["expr"].count("{")


def test_metrics_of_gpus_are_only_asked_for_where_there_are_some() -> None:
    asked = {name for query in QUERIES for name in query.metrics()}
    assert {name for name in asked if "gpu" in name.removeprefix("gsv_")} == GPU_METRICS


def test_alerts_say_what_to_look_at() -> None:
    names = [rule["alert"] for rule in alert_rules()]
    assert len(names) == len(set(names))
    for rule in alert_rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description"}


def test_promtool_accepts_the_alerts() -> None:
    assert f"{len(alert_rules())} rules found" in promtool(
        "check", "rules", str(FILES / "alerts.yaml")
    )


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    for path in (FILES / "alerts.yaml", HERE / "alerts_test.yaml"):
        shutil.copy(path, tmp_path)
    promtool("test", "rules", "alerts_test.yaml", folder=tmp_path)


def test_every_alert_is_tried_in_both_ways() -> None:
    cases = yaml.safe_load((HERE / "alerts_test.yaml").read_text(encoding="utf-8"))["tests"]
    for fires in (False, True):
        tried = {
            case["alertname"]
            for test in cases
            for case in test["alert_rule_test"]
            if bool(case.get("exp_alerts")) is fires
        }
        assert tried == {rule["alert"] for rule in alert_rules()}


def test_promtool_accepts_the_other_queries(tmp_path: Path) -> None:
    """As recording rules: Prometheus' own parser, which knows its functions' types."""
    rules = [
        {"record": f"query:{number}", "expr": query.text}
        for number, query in enumerate([*board_queries(), *adapter_queries()])
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}), encoding="utf-8")
    assert f"{len(rules)} rules found" in promtool("check", "rules", "--lint=none", str(path))
