"""Writes the Grafana board of deploy/helm/files/dashboard.json from the table of panels below.

    python tools/grafana_board.py           # rewrite the board
    python tools/grafana_board.py --check   # exit 1 if it is stale

A new row is a new entry of ``ROWS``. Queries are limited to what the board's variables choose, by
Prometheus' labels ``namespace`` and ``instance``.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

BOARD = Path(__file__).parent.parent / "deploy" / "helm" / "files" / "dashboard.json"
WHERE = 'namespace=~"$namespace",instance=~"$instance"'
PUBLIC = 'model=~"gpt_sovits_v4|gpt_sovits_v4_stream"'
COLUMNS, HEIGHT = 24, 8  # of Grafana's grid, and of a panel
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclasses.dataclass(frozen=True)
class Panel:
    """A graph: queries by their legends, the unit in Grafana's name, what there is to know."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    about: str = ""


def _sum(metric: str, by: str, where: str = "") -> str:
    return f"sum by ({by}) ({_selected(metric, where)})"


def _rate(metric: str, by: str, where: str = "") -> str:
    return f"sum by ({by}) (rate({_selected(metric, where)}[$__rate_interval]))"


def _selected(metric: str, where: str) -> str:
    return f"{metric}{{{','.join(part for part in (where, WHERE) if part)}}}"


def _quantile(share: float, histogram: str, by: str = "", where: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {_rate(f'{histogram}_bucket', labels, where)})"


def _quantiles(histogram: str, where: str = "") -> dict[str, str]:
    """Three percentiles of a histogram."""
    return {
        f"p{share * 100:.0f}": _quantile(share, histogram, where=where)
        for share in (0.5, 0.95, 0.99)
    }


def _mean(total: str, count: str, by: str, where: str = "") -> str:
    return f"{_rate(total, by, where)} / {_rate(count, by, where)}"


ROWS: dict[str, list[Panel]] = {
    "Public models": [
        Panel(
            "Requests ended per second",
            {"{{model}} {{outcome}}": _rate("gsv_requests_total", "model, outcome", PUBLIC)},
            "reqps",
            "Refused: values that are not allowed, unknown or broken voices, full waiting lines.",
        ),
        Panel(
            "Requests in flight",
            {"{{instance}}": _sum("gsv_requests_in_flight", "instance", PUBLIC)},
            about="What autoscaling looks at.",
        ),
        Panel(
            "Time to the first audio",
            _quantiles("gsv_first_audio_seconds"),
            "s",
            "Of streams, from arrival at the model to the first chunk. Autoscaling looks at p95.",
        ),
        Panel(
            "Time of a whole answer",
            {
                f"p{share * 100:.0f} {{{{model}}}}": _quantile(
                    share, "gsv_request_seconds", "model", PUBLIC
                )
                for share in (0.5, 0.95)
            },
            "s",
            "From arrival to the last response; a long text takes longer.",
        ),
        Panel(
            "Chunks that came late, share",
            {
                "{{instance}}": (
                    "1 - "
                    + _rate("gsv_chunk_late_seconds_bucket", "instance", 'le="0"')
                    + " / "
                    + _rate("gsv_chunk_late_seconds_count", "instance")
                )
            },
            "percentunit",
            "After the listener of the stream had nothing left to play.",
        ),
        Panel(
            "Seconds that listeners waited for late chunks, per second",
            {"{{instance}}": _rate("gsv_chunk_late_seconds_sum", "instance")},
        ),
        Panel(
            "Time of reading a text",
            _quantiles("gsv_request_seconds", 'model="text_frontend"'),
            "s",
        ),
        Panel(
            "Seconds of audio made per second",
            {"{{instance}}": _rate("gsv_voice_audio_seconds_total", "instance")},
            about="20 means as much speech as 20 people speak at once.",
        ),
    ],
    "Gateway": [
        Panel(
            "Time to the first audio, at the gateway",
            _quantiles("gsv_gateway_first_audio_seconds"),
            "s",
            "Until the first chunk from Triton, as the gateways see it.",
        ),
        Panel(
            "Time of a whole answer, at the gateway",
            _quantiles("gsv_gateway_request_seconds"),
            "s",
        ),
        Panel(
            "Answers per second",
            {"{{route}} {{status}}": _rate("gsv_gateway_requests_total", "route, status")},
            "reqps",
        ),
        Panel(
            "Requests in flight and connections",
            {
                "requests {{instance}}": _sum("gsv_gateway_requests_in_flight", "instance"),
                "connections {{instance}}": _sum("gsv_gateway_connections", "instance"),
            },
        ),
        Panel(
            "Callers who left, connections refused, per second",
            {
                "left": _rate("gsv_gateway_left_total", "job"),
                "refused": _rate("gsv_gateway_connections_refused_total", "job"),
            },
        ),
        Panel(
            "Seconds of audio sent per second",
            {"{{instance}}": _rate("gsv_gateway_audio_seconds_total", "instance")},
        ),
    ],
    "Running batches": [
        Panel(
            "In the batch",
            {"{{model}} {{instance}}": _sum("gsv_batch_running", "model, instance")},
        ),
        Panel(
            "Waiting for a place in it",
            {"{{model}} {{instance}}": _sum("gsv_batch_waiting", "model, instance")},
            about="More than zero for long: more replicas or slots are needed.",
        ),
        Panel(
            "Mean batch: rows per step",
            {
                "{{model}} {{instance}}": _mean(
                    "gsv_batch_rows", "gsv_batch_steps", "model, instance"
                )
            },
        ),
        Panel(
            "Steps per second",
            {"{{model}} {{instance}}": _rate("gsv_batch_steps", "model, instance")},
        ),
    ],
    "Stages": [
        Panel(
            "Seconds per request of each model, mean",
            {"{{model}}": _mean("gsv_request_seconds_sum", "gsv_request_seconds_count", "model")},
            "s",
        ),
        Panel(
            "Time of a request, p95",
            {"{{model}}": _quantile(0.95, "gsv_request_seconds", "model")},
            "s",
        ),
        Panel(
            "Time in a model's waiting line, p95",
            {"{{model}}": _quantile(0.95, "gsv_queue_seconds", "model")},
            "s",
            "Until a request, a sentence, a chunk of mel or a wave is begun.",
        ),
        Panel("Requests in flight", {"{{model}}": _sum("gsv_requests_in_flight", "model")}),
        Panel(
            "Time in Triton's queue, mean",
            {
                "{{model}}": _mean(
                    "nv_inference_queue_duration_us", "nv_inference_request_success", "model"
                )
            },
            "µs",
            "Before the model's execute; what waits inside a model is beside this.",
        ),
        Panel(
            "Requests in Triton's queue",
            {"{{model}}": _sum("nv_inference_pending_request_count", "model")},
        ),
        Panel(
            "Requests per execution, mean",
            {"{{model}}": _mean("nv_inference_count", "nv_inference_exec_count", "model")},
            about="What Triton's dynamic batcher brings together.",
        ),
        Panel(
            "Failures by Triton's count, per second",
            {"{{model}} {{reason}}": _rate("nv_inference_request_failure", "model, reason")},
            "reqps",
        ),
    ],
    "Voices": [
        Panel(
            "Requests per second, ten busiest voices",
            {"{{voice}}": f"topk(10, {_rate('gsv_voice_requests_total', 'voice')})"},
            "reqps",
        ),
        Panel(
            "Seconds of audio per second, ten busiest voices",
            {"{{voice}}": f"topk(10, {_rate('gsv_voice_audio_seconds_total', 'voice')})"},
        ),
        Panel(
            "Where features of recordings come from, per second",
            {"{{source}}": _rate("gsv_voice_features_total", "source")},
            about="Mostly computed: voices can't be written, or callers bring recordings.",
        ),
        Panel(
            "Memory of voices' own weights",
            {"{{voice}}": f"topk(20, {_sum('gsv_voice_resident_bytes', 'voice')})"},
            "bytes",
        ),
        Panel(
            "Loads of voices' own weights per second",
            {
                "loaded {{voice}}": _rate("gsv_voice_loads_total", "voice"),
                "failed {{voice}}": _rate("gsv_voice_load_failures_total", "voice"),
            },
            about="The same voices again and again: memory_budget_mib is too small.",
        ),
        Panel(
            "Seconds per load, mean",
            {"{{voice}}": _mean("gsv_voice_load_seconds_total", "gsv_voice_loads_total", "voice")},
            "s",
        ),
    ],
    "Machine": [
        Panel("CPU", {"{{instance}}": _sum("nv_cpu_utilization", "instance")}, "percentunit"),
        Panel(
            "Memory",
            {
                "used {{instance}}": _sum("nv_cpu_memory_used_bytes", "instance"),
                "total {{instance}}": _sum("nv_cpu_memory_total_bytes", "instance"),
            },
            "bytes",
        ),
        Panel(
            "GPU in use",
            {"{{instance}} {{gpu_uuid}}": _sum("nv_gpu_utilization", "instance, gpu_uuid")},
            "percentunit",
        ),
        Panel(
            "GPU memory",
            {
                "used {{instance}} {{gpu_uuid}}": _sum(
                    "nv_gpu_memory_used_bytes", "instance, gpu_uuid"
                ),
                "total {{instance}} {{gpu_uuid}}": _sum(
                    "nv_gpu_memory_total_bytes", "instance, gpu_uuid"
                ),
            },
            "bytes",
        ),
    ],
}


def board() -> dict[str, Any]:
    """The board in Grafana's form (schema 39: Grafana 10 and later)."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row, graphs in ROWS.items():
        place = {"h": 1, "w": COLUMNS, "x": 0, "y": top}
        panels.append(
            {"type": "row", "title": row, "gridPos": place, "collapsed": False, "panels": []}
        )
        top += 1
        across = 3 if len(graphs) % 3 == 0 else 4
        width = COLUMNS // across
        for number, graph in enumerate(graphs):
            line, column = divmod(number, across)
            place = {"h": HEIGHT, "w": width, "x": column * width, "y": top + line * HEIGHT}
            panels.append(_graph(graph, place))
        top += -(-len(graphs) // across) * HEIGHT
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return {
        "uid": "gpt-sovits-triton",
        "title": "GPT-SoVITS on Triton",
        "tags": ["gpt-sovits", "triton"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _graph(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": SOURCE,
                "expr": query,
                "legendFormat": legend,
                "range": True,
            }
            for number, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def _variables() -> list[dict[str, Any]]:
    source = {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
    }
    return [source, _labels("namespace", ""), _labels("instance", 'namespace=~"$namespace"')]


def _labels(name: str, where: str) -> dict[str, Any]:
    # Outside Kubernetes there is no namespace: "all" then means series without the label.
    metric = '{__name__=~"gsv_requests_in_flight|gsv_gateway_requests_in_flight"' + (
        f",{where}}}" if where else "}"
    )
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "definition": f"label_values({metric}, {name})",
        "query": {"query": f"label_values({metric}, {name})", "refId": name},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "sort": 1,
        "current": {"selected": True, "text": "All", "value": "$__all"},
    }


def text() -> str:
    """The file's text."""
    return json.dumps(board(), indent=2) + "\n"


def main() -> int:
    """Rewrite or check; the exit code."""
    if BOARD.exists() and BOARD.read_text(encoding="utf-8") == text():
        return 0
    if "--check" in sys.argv:
        sys.stderr.write(f"{BOARD.name}: stale; run python tools/grafana_board.py\n")
        return 1
    BOARD.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
