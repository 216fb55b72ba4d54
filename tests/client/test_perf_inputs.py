"""The kept perf_analyzer inputs are those that the script makes, and are requests we would send."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gsv_client.options import TENSORS

FOLDER = Path(__file__).parents[2] / "benchmarks" / "perf_analyzer"
DATATYPES = {tensor.name: tensor.datatype for tensor in TENSORS.values()}
KINDS = {"BYTES": str, "INT32": int, "INT64": int, "FP32": float}
NAMES = ("unary.json", "stream.json")


def test_they_are_up_to_date(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(FOLDER / "make_inputs.py"), str(tmp_path)], check=True)
    for name in NAMES:
        assert (tmp_path / name).read_text("utf-8") == (FOLDER / name).read_text("utf-8"), name


@pytest.mark.parametrize("name", NAMES)
def test_every_step_is_a_request(name: str) -> None:
    steps = json.loads((FOLDER / name).read_text(encoding="utf-8"))["data"]
    assert len(steps) >= 8
    for step in steps:
        assert "TEXT" in step
        for tensor, values in step.items():
            assert set(values) == {"content", "shape"}
            assert values["shape"] == [len(values["content"])] == [1]
            assert isinstance(values["content"][0], KINDS[DATATYPES[tensor]])
    assert np.ptp([len(step["TEXT"]["content"][0]) for step in steps]) > 100
