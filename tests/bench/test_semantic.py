"""The benchmark of the semantic GPT runs and tells what it found."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from gpt_models import golden_config

from gsv.bench import semantic
from gsv.bench.__main__ import main


def test_measurements() -> None:
    threads = torch.get_num_threads()
    found = semantic.measure("float32", 2, threads, steps=5, config=golden_config("tiny"))
    assert (found["dtype"], found["rows"], found["threads"]) == ("float32", 2, threads)
    for name in ("step_ms", "best_step_ms", "plain_step_ms", "prefill_ms", "floor_ms"):
        assert float(found[name]) > 0
    line = semantic.table([found]).splitlines()[-1]
    assert line.startswith("float32")
    assert line.endswith(f"{found['bandwidth_gb_s']:.1f}"), "the probe beside each precision"


def test_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        semantic, "measure", lambda dtype, rows, *_, **__: {"dtype": dtype, "rows": rows}
    )
    printed = CliRunner().invoke(main, ["semantic", "--json", "--dtype", "int8", "--rows", "1,8"])
    assert json.loads(printed.output) == [{"dtype": "int8", "rows": n} for n in (1, 8)]


@pytest.mark.parametrize(
    ("device", "expected"),
    [("cpu", ["float32", "bfloat16", "int8"]), ("cuda", ["float32", "bfloat16"])],
)
def test_precisions_are_those_of_the_device(
    monkeypatch: pytest.MonkeyPatch, device: str, expected: list[str]
) -> None:
    asked = []

    def measure(dtype: str, *_: object, device: str) -> dict[str, float]:
        asked.append((dtype, device))
        return {}

    monkeypatch.setattr(semantic, "measure", measure)
    printed = CliRunner().invoke(main, ["semantic", "--json", "--rows", "1", "--device", device])
    assert len(json.loads(printed.output)) == len(expected)
    assert asked == [(dtype, device) for dtype in expected]


def test_rows_must_be_numbers() -> None:
    refused = CliRunner().invoke(main, ["semantic", "--rows", "1,two"])
    assert refused.exit_code == 2
    assert "'1,two': whole numbers with commas between them" in refused.output
