"""Plots of a benchmark. Needs matplotlib, the extra `bench`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gsv_client.bench.report import Run
from gsv_client.errors import GsvClientError

HINT = 'plots need matplotlib: pip install "gsv-client[bench]"'
PANEL_INCHES = (4.2, 3.2)
DOTS_PER_INCH = 110
LOAD_NAMES = {"closed": "callers at once", "open": "requests per second"}
Figures = dict[str, Any]


def check_matplotlib() -> None:
    """GsvClientError if matplotlib is not installed; call it before a long run."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise GsvClientError(HINT) from error


def draw(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write `load.png` (figures over the load) and `distribution.png` (each run's own)."""
    check_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _over_load(runs, folder / "load.png"),
        _distributions(runs, folder / "distribution.png"),
    ]


def _over_load(runs: Sequence[Run], path: Path) -> Path:
    """A row for each kind of loop; of times, p50 as a line and p95 dashed."""
    loops = [loop for loop in LOAD_NAMES if any(run.loop == loop for run in runs)]
    panels: list[tuple[str, Callable[[Figures, str], float | None]]] = [
        ("first audio, s", lambda figures, p: (figures["first_audio"] or {}).get(p)),
        ("latency, s", lambda figures, p: (figures["latency"] or {}).get(p)),
        (
            "audio seconds per second",
            lambda figures, p: _once(p, figures["audio_seconds_per_second"]),
        ),
        ("share of steady streams", lambda figures, p: _once(p, figures["never_starved"])),
    ]
    figure, axes = _figure(len(loops), len(panels))
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(_way(run) for run in runs))}
    for loop, row in zip(loops, axes, strict=True):
        for axis, (title, pick) in zip(row, panels, strict=True):
            for way, colour in colours.items():
                own = sorted(
                    (run for run in runs if run.loop == loop and _way(run) == way),
                    key=lambda run: run.load,
                )
                for percentile, style in (("p50", "o-"), ("p95", ".--")):
                    points = [(run.load, pick(run.figures(), percentile)) for run in own]
                    shown = [(x, y) for x, y in points if y is not None]
                    axis.plot([x for x, _ in shown], [y for _, y in shown], style, color=colour)
            loads = sorted({run.load for run in runs if run.loop == loop})
            axis.set(title=title, xlabel=LOAD_NAMES[loop], ylim=(0, None), xticks=loads)
            axis.grid(alpha=0.3)
    _legend(figure, colours)
    return _save(figure, path)


def _distributions(runs: Sequence[Run], path: Path) -> Path:
    """A column for each series: the share of requests served within so many seconds."""
    series = list(dict.fromkeys(run.series for run in runs))
    figure, axes = _figure(2, len(series))
    for attribute, row in zip(("first_audio", "latency"), axes, strict=True):
        for name, axis in zip(series, row, strict=True):
            for run in (run for run in runs if run.series == name):
                found = (getattr(o, attribute) for o in run.outcomes if o.error is None)
                values = np.sort([value for value in found if value is not None])
                share = np.arange(1, len(values) + 1) / max(len(values), 1)
                axis.step(values, share, where="post", label=f"{run.load:g}")
            what = attribute.replace("_", " ")
            axis.set(xlabel=f"{what} within, s", ylabel="share of requests", ylim=(0, 1.02))
            axis.set_title(name, fontsize="small")
            axis.legend(title=LOAD_NAMES[name.rsplit(" ", 1)[-1]], fontsize="small")
            axis.grid(alpha=0.3)
    return _save(figure, path)


def _way(run: Run) -> str:
    return f"{run.url} {run.mode}"


def _once(percentile: str, value: float | None) -> float | None:
    """Figures without percentiles are drawn like the p50 line."""
    return value if percentile == "p50" else None


def _figure(rows: int, columns: int) -> tuple[Any, Any]:
    # No pyplot: it would choose a window system and keep every figure.
    from matplotlib.figure import Figure

    size = (PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _legend(figure: Any, colours: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    handles.append(Line2D([], [], color="grey", linestyle="-", label="p50"))
    handles.append(Line2D([], [], color="grey", linestyle="--", label="p95"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=DOTS_PER_INCH)
    return path
