"""The benchmark of single operations runs, and its ways agree."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from golden import sovits_config, vocoder_config

from gsv.bench import kernels

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_way_computes_the_same(dtype: str) -> None:
    configs = sovits_config("tiny"), vocoder_config("tiny")
    rows = list(kernels.measure([(2, 70)], dtype, "cpu", *configs))
    assert sum(row.operation.startswith("vocoder") for row in rows) == 10
    assert {row.operation for row in rows} >= {
        "attention",
        "attention, padded",
        "rotation",
        "sum and norm",
        "position convolutions",
    }
    for row in rows:
        assert not row.failure, row
        assert row.microseconds is not None
        assert row.microseconds > 0
        assert (row.error or 0) < (1e-5 if dtype == "float32" else 0.01), row


def test_a_failing_way_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("no such kernel")

    ways = [kernels.Way("one", fail)]  # type: ignore[arg-type]
    rows = list(kernels._measured(kernels.Operation("norm", 1.0, None, ways), 1, 2, "cpu"))
    assert rows[0].failure == "RuntimeError: no such kernel"


def test_command(monkeypatch: pytest.MonkeyPatch) -> None:
    row = kernels.Row("norm", "plain", 1, 2, 3.0)
    monkeypatch.setattr(kernels, "measure", lambda *arguments: iter([row]))
    printed = CliRunner().invoke(kernels.main, ["--shape", "1x2", "--device", "cpu"])
    assert json.loads(printed.output)["microseconds"] == 3.0
    wrong = CliRunner().invoke(kernels.main, ["--shape", "1,2"])
    assert "must be as 16x1024" in wrong.output
