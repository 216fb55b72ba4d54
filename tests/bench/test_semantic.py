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
    assert "float32" in semantic.table([found])


def test_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic, "measure", lambda dtype, rows, *_: {"dtype": dtype, "rows": rows})
    printed = CliRunner().invoke(main, ["semantic", "--json", "--dtype", "int8", "--rows", "1,8"])
    assert json.loads(printed.output) == [{"dtype": "int8", "rows": n} for n in (1, 8)]


def test_rows_must_be_numbers() -> None:
    refused = CliRunner().invoke(main, ["semantic", "--rows", "1,two"])
    assert refused.exit_code == 2
    assert "'1,two': whole numbers with commas between them" in refused.output
