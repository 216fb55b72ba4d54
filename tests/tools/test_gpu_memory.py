"""The table of memory in docs/gpu.md is what the sizes say."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "tools"))

import gpu_memory  # noqa: E402


def test_the_table_is_fresh() -> None:
    text = gpu_memory.PAGE.read_text(encoding="utf-8")
    assert gpu_memory.updated(text) == text, "run python tools/gpu_memory.py"


def test_half_of_every_gpu_is_left_for_weights_and_workspaces() -> None:
    rows = [line.split("|")[1:-1] for line in gpu_memory.table().splitlines()[2:]]
    assert [row[0].strip() for row in rows] == list(gpu_memory.GPUS)
    for _, memory, networks, _, *_, left in rows:
        numbers = [float(text.replace(",", "")) for text in (memory, networks, left)]
        assert numbers[1] + numbers[2] >= numbers[0] / 2
