"""The goals on one H100, and what was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from gpu_steps.report import Report

Measured = float | None


@dataclasses.dataclass(frozen=True)
class Goal:
    """One line of the table.

    Attributes:
        name, unit: for people.
        bound: that is to be reached.
        at_most: whether less is better.
        measured: the figure in a report, None where it is missing.
    """

    name: str
    unit: str
    bound: float
    at_most: bool
    measured: Callable[[Report], Measured]

    def row(self, report: Report) -> dict[str, Any]:
        """Goal, measured, met; a CPU and tiny networks meet nothing."""
        found = self.measured(report)
        met = None
        options = report.content.get("options", {})
        if found is not None and options.get("device") != "cpu" and not options.get("quick"):
            met = found <= self.bound if self.at_most else found >= self.bound
        sign = "at most" if self.at_most else "at least"
        return {
            "name": self.name,
            "goal": f"{sign} {self.bound:g} {self.unit}".strip(),
            "measured": found,
            "met": met,
        }


def _at(step: str, *keys: str) -> Callable[[Report], Measured]:
    def look(report: Report) -> Measured:
        found: Any = report.results(step)
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return float(found) if isinstance(found, int | float) else None

    return look


def _ratio(report: Report) -> Measured:
    many, one = (_at("decode", f"rows_{n}", "tokens_per_s")(report) for n in (32, 1))
    return many / one if many and one else None


def _estimator_share(report: Report) -> Measured:
    names = ("step_16x1024_plain", "step_16x1024_product", "solve_16x1024_16")
    shares = [_at("estimator", name, "gemm_share")(report) for name in names]
    return max((share for share in shares if share), default=None)


GOALS = [
    Goal("GPT decode, one sequence, with sampling", "ms a token", 0.8, True,
         _at("decode", "rows_1", "ms_per_token")),
    Goal("GPT decode, 32 sequences", "times one sequence's tokens/s", 20, False, _ratio),
    Goal("DiT, 16 x 1024 frames", "of the GEMM rate", 0.55, False, _estimator_share),
    *(
        Goal(f"first audio p50, {count} streams", "ms", bound, True,
             _at("streams", f"streams_{count}_8", "first_ms", "p50"))
        for count, bound in ((1, 80), (8, 150), (32, 350))
    ),
    Goal("audio-seconds per second, 16 streams", "", 100, False,
         _at("streams", "streams_16_8", "audio_s_per_s")),
]  # fmt: skip


def evaluate(report: Report) -> None:
    """Write the table into the report."""
    report.content["goals"] = [goal.row(report) for goal in GOALS]
    report.save()
