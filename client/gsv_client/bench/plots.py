"""Plots of a benchmark. Needs matplotlib, the extra `bench`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gsv_client.bench.report import Run
from gsv_client.errors import GsvClientError

HINT = 'plots need matplotlib: pip install "gsv-client[bench]"'
SIZE_INCHES = (12, 4.5)
DOTS_PER_INCH = 110


def check_matplotlib() -> None:
    """GsvClientError with the cure when matplotlib is absent; ask before a long run."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise GsvClientError(HINT) from error


def draw(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write `load.png` (figures over load) and `distribution.png` (of each run) into `folder`."""
    check_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    return [_load(runs, folder / "load.png"), _distribution(runs, folder / "distribution.png")]


def _load(runs: Sequence[Run], path: Path) -> Path:
    panels: list[tuple[str, Callable[[dict[str, Any]], float | None]]] = [
        ("first audio p50, s", lambda f: (f["first_audio"] or {}).get("p50")),
        ("first audio p95, s", lambda f: (f["first_audio"] or {}).get("p95")),
        ("audio seconds per second", lambda f: f["audio_seconds_per_second"]),
    ]
    figure, axes = _figure(len(panels))
    for axis, (title, pick) in zip(axes, panels, strict=True):
        for name in dict.fromkeys(run.series for run in runs):
            points = [(run.load, pick(run.figures())) for run in runs if run.series == name]
            shown = sorted((x, y) for x, y in points if y is not None)
            axis.plot([x for x, _ in shown], [y for _, y in shown], marker="o", label=name)
        axis.set(title=title, xlabel="callers at once, or requests per second", ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    return _save(figure, path)


def _distribution(runs: Sequence[Run], path: Path) -> Path:
    figure, axes = _figure(2)
    for axis, attribute in zip(axes, ("first_audio", "latency"), strict=True):
        for run in runs:
            found = (getattr(outcome, attribute) for outcome in run.outcomes if not outcome.error)
            values = np.sort([value for value in found if value is not None])
            share = np.arange(1, len(values) + 1) / max(len(values), 1)
            axis.step(values, share, where="post", label=f"{run.series} {run.load:g}")
        title = f"share of requests with {attribute.replace('_', ' ')} within"
        axis.set(title=title, xlabel="seconds", ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    return _save(figure, path)


def _figure(panels: int) -> tuple[Any, Any]:
    # No pyplot: it would choose a window system and keep every figure.
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    return figure, figure.subplots(1, panels)


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=DOTS_PER_INCH)
    return path
