"""The benchmark of mixed voices runs, and mixes them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from golden import sovits_config

from gsv.bench import voices
from gsv.config import SoVITSConfig


def test_a_mixed_batch_is_measured_against_the_base() -> None:
    (row,) = voices.measure([40], ["float32"], (4, 8), 2, config=sovits_config("tiny"))
    assert (row.frames, row.ranks, row.steps) == (40, (4, 8), 2)
    assert row.base_seconds > 0
    assert row.throughput == row.base_seconds / row.mixed_seconds
    assert f"{row.throughput:.0%}" in voices.table([row])


def test_the_command_prints_the_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "SoVITSConfig", lambda: sovits_config("tiny"))
    assert isinstance(voices.SoVITSConfig(), SoVITSConfig)
    arguments = ["--frames", "40", "--dtype", "float32", "--steps", "2", "--json"]
    done = CliRunner().invoke(voices.main, arguments)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.output)
    assert row["throughput"] > 0
    assert row["ranks"] == [8, 16, 32, 64]
