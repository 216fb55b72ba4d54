"""Figures of a run, as JSON and as a table."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from gsv_client.bench.load import Outcome

FORMAT = 1  # of the JSON file
PERCENTILES = (50, 95, 99)


@dataclasses.dataclass(frozen=True)
class Run:
    """One load on one server in one way.

    Attributes:
        url: where.
        mode: `unary` or `stream`.
        loop: `closed` or `open`.
        load: callers at once (closed), or requests per second (open).
        outcomes: one for each request.
        seconds: what all took.
        server: what the server counted meanwhile, or None.
    """

    url: str
    mode: str
    loop: str
    load: float
    outcomes: Sequence[Outcome]
    seconds: float
    server: dict[str, Any] | None = None

    @property
    def series(self) -> str:
        """Runs of one series differ in the load only."""
        return f"{self.url} {self.mode} {self.loop}"

    def figures(self) -> dict[str, Any]:
        """The run in numbers; times in seconds."""
        good = [outcome for outcome in self.outcomes if outcome.error is None]
        streams = good if self.mode == "stream" else []
        audio = sum(outcome.audio for outcome in good)
        factors = [outcome.latency / outcome.audio for outcome in good if outcome.audio]
        return {
            "requests": len(self.outcomes),
            "errors": dict(Counter(o.error for o in self.outcomes if o.error is not None)),
            "seconds": self.seconds,
            "audio_seconds": audio,
            "audio_seconds_per_second": audio / self.seconds if self.seconds else 0.0,
            "first_audio": percentiles([o.first_audio for o in good if o.first_audio is not None]),
            "latency": percentiles([outcome.latency for outcome in good]),
            "real_time_factor": percentiles(factors),
            "largest_gap": max((o.gap for o in streams if o.gap is not None), default=None),
            "never_starved": _share([not outcome.starved for outcome in streams]),
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: the load, its figures, and each request."""
        return {
            "url": self.url,
            "mode": self.mode,
            "loop": self.loop,
            "load": self.load,
            "figures": self.figures(),
            "server": self.server,
            "outcomes": [dataclasses.asdict(outcome) for outcome in self.outcomes],
        }


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """p50, p95, p99 and the mean; None for nothing.

    >>> percentiles([1.0, 2.0, 3.0])["p50"]
    2.0
    """
    if not values:
        return None
    found = {f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES}
    return {**found, "mean": float(np.mean(values))}


HEADER = (
    "SERVER", "MODE", "LOAD", "FIRST p50", "p95", "p99", "LATENCY p50", "p95", "p99",
    "RTF", "AUDIO s/s", "GAP", "STEADY", "GPT ROWS", "FLOW ROWS", "ERRORS",
)  # fmt: skip


def row(run: Run) -> tuple[str, ...]:
    """The run as a line under HEADER; times in ms."""
    figures = run.figures()
    first, latency = figures["first_audio"] or {}, figures["latency"] or {}
    factor, gap, steady = (
        figures["real_time_factor"] or {},
        figures["largest_gap"],
        figures["never_starved"],
    )
    return (
        run.url,
        run.mode,
        f"{run.load:g} at once" if run.loop == "closed" else f"{run.load:g}/s",
        *(_ms(first.get(f"p{p}")) for p in PERCENTILES),
        *(_ms(latency.get(f"p{p}")) for p in PERCENTILES),
        f"{factor['p50']:.2f}" if factor else "-",
        f"{figures['audio_seconds_per_second']:.2f}",
        _ms(gap),
        f"{steady:.0%}" if steady is not None else "-",
        *(_mean_rows(run, model) for model in ("semantic_gpt", "sovits_v4")),
        str(sum(figures["errors"].values())),
    )


def _mean_rows(run: Run, model: str) -> str:
    batch = (run.server or {}).get("batches", {}).get(model)
    return f"{batch['mean_rows']:.1f}" if batch else "-"


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f}"
