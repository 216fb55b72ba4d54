"""What the server itself counted during a run, from its Prometheus endpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import urllib3

from gsv_client.errors import from_status, http_errors

# name{labels} → value
Samples = dict[str, float]

_LINE = re.compile(r"^(?P<series>[A-Za-z_:][\w:]*(?:\{.*\})?)\s+(?P<value>\S+)(?:\s+\d+)?$")
_MODEL = re.compile(r'\bmodel="([^"]*)"')
_OURS = "gsv_"
_MEMORY = ("nv_cpu_memory_used_bytes", "nv_gpu_memory_used_bytes")
# Triton counts time in microseconds.
_MILLISECOND = 1000.0


def scrape(url: str, timeout: float = 10.0) -> Samples:
    """All samples that the endpoint shows now.

    Raises:
        ServerUnavailable, Timeout, ServerError: no endpoint there.
    """
    with http_errors(url, timeout), urllib3.PoolManager(retries=False) as pool:
        response = pool.request("GET", url, timeout=timeout)
    if response.status != 200:
        raise from_status(response.status, "no metrics here", url)
    return parse(response.data.decode("utf-8", "replace"))


def parse(text: str) -> Samples:
    """Prometheus text format → samples.

    >>> parse('# HELP x y\\nx{model="a"} 2\\ny 0.5')
    {'x{model="a"}': 2.0, 'y': 0.5}
    """
    matches = (_LINE.match(line.strip()) for line in text.splitlines() if line[:1] != "#")
    return {match["series"]: float(match["value"]) for match in matches if match}


def compare(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, Any]:
    """What happened between two scrapes: per model, the project's own series, memory at the end.

    `mean_batch` is requests per execution; `queue_ms` and `compute_ms` are means per request.
    `batches` gives for each running batch its steps and the mean rows of a step. A histogram or
    summary is given as its mean.
    """
    gained = {series: value - before.get(series, 0.0) for series, value in after.items()}
    models = sorted({m[1] for series in after if (m := _MODEL.search(series)) is not None})
    return {
        "models": {model: found for model in models if (found := _of_model(model, gained))},
        "batches": _batches(gained),
        "gsv": _own(gained, after),
        "memory_bytes": {s: v for s, v in after.items() if s.startswith(_MEMORY)},
    }


def _of_model(model: str, gained: Mapping[str, float]) -> dict[str, float]:
    def count(name: str) -> float:
        return sum(
            value
            for series, value in gained.items()
            if series.startswith(name + "{") and f'model="{model}"' in series
        )

    requests, executions = count("nv_inference_request_success"), count("nv_inference_exec_count")
    failures = count("nv_inference_request_failure")
    if not requests + failures:
        return {}
    return {
        "requests": requests,
        "failures": failures,
        "executions": executions,
        "mean_batch": count("nv_inference_count") / executions if executions else 0.0,
        "queue_ms": count("nv_inference_queue_duration_us") / _MILLISECOND / max(requests, 1),
        "compute_ms": count("nv_inference_compute_infer_duration_us")
        / _MILLISECOND
        / max(requests, 1),
    }


def _batches(gained: Mapping[str, float]) -> dict[str, dict[str, float]]:
    steps, rows = (_by_model(gained, f"gsv_batch_{name}{{") for name in ("steps", "rows"))
    return {
        model: {"steps": count, "mean_rows": rows.get(model, 0.0) / count}
        for model, count in sorted(steps.items())
        if count
    }


def _by_model(gained: Mapping[str, float], prefix: str) -> dict[str, float]:
    """What the series with this name gained, summed over the instances of each model."""
    sums: dict[str, float] = {}
    for series, value in gained.items():
        if series.startswith(prefix) and (match := _MODEL.search(series)):
            sums[match[1]] = sums.get(match[1], 0.0) + value
    return sums


def _own(gained: Mapping[str, float], after: Mapping[str, float]) -> dict[str, dict[str, float]]:
    own: dict[str, dict[str, float]] = {}
    for series in sorted(after):
        if not series.startswith(_OURS) or "_bucket{" in series:
            continue
        own[series] = {"gained": gained[series], "now": after[series]}
        name, brace, labels = series.partition("{")
        times = gained.get(f"{name.removesuffix('_sum')}_count{brace}{labels}", 0.0)
        if name.endswith("_sum") and times:
            own[series]["mean"] = gained[series] / times
    return own
