"""The repository's tests that are marked ``gpu``, in a process of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

from gpu_steps import ROOT
from gpu_steps.report import Report, Section
from gpu_steps.setup import Setup

_FOLDERS = ("tests/engine", "tests/models", "tests/stages")
_MARK = "pytest.mark.gpu"
_LINES = 60  # of the output that are kept


def run(setup: Setup, section: Section, report: Report) -> None:
    """What pytest says."""
    section.attempt("pytest", lambda: tests(setup, section))


def marked() -> list[str]:
    """The files that have such tests: the others may need packages that are not there."""
    files = [file for name in _FOLDERS for file in sorted((ROOT / name).glob("test_*.py"))]
    return [str(file.relative_to(ROOT)) for file in files if _MARK in file.read_text("utf-8")]


def tests(setup: Setup, section: Section) -> dict[str, Any]:
    """Counts by outcome, and the last lines."""
    files = ["tests/engine/test_flow_graphs.py"] if setup.quick else marked()
    # Warnings of newer libraries than the project's own are no failures here.
    options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
    options += ["--durations=8", "--continue-on-collection-errors"]
    command = [sys.executable, "-m", "pytest", *options]
    path = os.pathsep.join([str(ROOT / "backend"), str(ROOT / "client")])
    path = os.pathsep.join([path, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    limit = max(5.0, section.deadline.left)
    try:
        done = subprocess.run(
            [*command, *files],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        output, code = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired as late:
        output, code = (late.stdout or b"").decode(errors="replace"), None
    lines = output.strip().splitlines()
    last = lines[-1] if lines else ""
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}
    return {
        "exit": code,
        "ok": code == 0 and not counts.get("failed") and not counts.get("error"),
        **counts,
        "output": lines[-_LINES:],
    }
