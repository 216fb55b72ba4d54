"""The plain renditions are the networks, and the benchmark runs."""

from __future__ import annotations

import json

import pytest
import torch
from acoustic_models import sovits, vocoder
from click.testing import CliRunner
from golden import sovits_config, vocoder_config
from torch.testing import assert_close

from gsv.bench import acoustic, plain

pytestmark = pytest.mark.usefixtures("no_grad")


def test_plain_estimator_is_the_estimator() -> None:
    flow, config = sovits("tiny").flow, sovits("tiny").config
    generator = torch.Generator().manual_seed(0)
    noisy, prompt = torch.randn(2, 2, 50, config.mel_channels, generator=generator)
    condition = torch.randn(2, 50, config.condition_channels, generator=generator)
    time, step = torch.tensor([0.0, 0.7]), torch.tensor([0.5, 0.1])
    embedded = flow.estimator.embed_condition(condition)
    expected = plain.dit_step(flow.estimator, noisy, prompt, embedded, time, step)
    made = flow.estimator(
        noisy, flow.estimator.embed_inputs(prompt, embedded), flow.estimator.modulate(time, step)
    )
    assert_close(made, expected, atol=2e-5, rtol=0)


def test_plain_vocoder_is_the_vocoder() -> None:
    mel = torch.randn(2, 100, 30, generator=torch.Generator().manual_seed(0)) * 2 - 5
    assert_close(vocoder("tiny")(mel), plain.vocode(vocoder("tiny"), mel), atol=1e-6, rtol=0)


def test_measurements() -> None:
    rows = acoustic.measure(
        [40], [1, 2], ["float32"], sovits=sovits_config("tiny"), vocoder=vocoder_config("tiny")
    )
    assert [(row.what, row.frames, row.batch) for row in rows] == [
        ("dit step", 40, 1),
        ("dit step", 40, 2),
        ("vocoder", 40, 1),
    ]
    assert all(row.seconds > 0 and row.speedup > 0 for row in rows)
    assert "dit step" in acoustic.table(rows)


def test_command(monkeypatch: pytest.MonkeyPatch) -> None:
    row = acoustic.Row("vocoder", "float32", 100, 1, 0.1, 0.2, None)
    monkeypatch.setattr(acoustic, "measure", lambda *arguments: [row])
    printed = CliRunner().invoke(acoustic.main, ["--json", "--frames", "100"])
    assert json.loads(printed.output)[0]["speedup"] == 2
