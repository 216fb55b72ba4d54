"""The report as text."""

from __future__ import annotations

from typing import Any

from gpu_steps.report import Report

_MARKS = {True: "yes", False: "NO", None: "-"}


def table(report: Report) -> str:
    """Machine, goals, parity, and what went wrong."""
    machine = report.content["machine"]
    lines = [
        f"{machine.get('device_name', '?')}, torch {machine.get('torch')}, "
        f"cuDNN {machine.get('cudnn')}, triton {machine.get('triton')}",
        "",
        f"{'goal':42}{'wanted':>38}{'measured':>11}  met",
    ]
    for row in report.content["goals"]:
        measured = "-" if row["measured"] is None else f"{row['measured']:.3g}"
        lines.append(f"{row['name']:42}{row['goal']:>38}{measured:>11}  {_MARKS[row['met']]}")
    lines += ["", *_parity(report), "", f"{'step':16}{'seconds':>9}  outcome"]
    for name, step in report.content["steps"].items():
        lines.append(f"{name:16}{step.get('seconds', 0):9.1f}  {_outcome(step)}")
    return "\n".join(lines)


def _parity(report: Report) -> list[str]:
    found: dict[str, Any] = report.results("parity").get("summary", {})
    if not found:
        return ["parity: not checked"]
    share = f"the largest difference is {found['largest_share']:.0%} of what is allowed"
    if not found["off"]:
        return [f"parity: all {found['outputs']} outputs in float32; {share}"]
    off = ", ".join(found["off"])
    return [f"parity: {len(found['off'])} of {found['outputs']} outputs are OFF: {off}"]


def _outcome(step: dict[str, Any]) -> str:
    errors, skipped = step.get("errors", {}), step.get("skipped", {})
    parts = [str(step.get("status", "?"))]
    if errors:
        parts.append(f"{len(errors)} errors ({', '.join(errors)})")
    if skipped:
        parts.append(f"{len(skipped)} skipped ({', '.join(skipped)})")
    return "; ".join(parts)
