"""Resampling against torchaudio's and librosa's numbers, and in pieces against whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden import has_case, load_case

from gsv import audio

pytestmark = pytest.mark.golden
needs_case = pytest.mark.skipif(not has_case("tiny_resample"), reason="no tiny_resample case")


@needs_case
@pytest.mark.parametrize("source", [16000, 22050, 24000, 44100, 48000])
def test_sinc_equals_torchaudio(source: int) -> None:
    case = load_case("tiny_resample")
    case.check(f"ta_{source}_32000", audio.resample_sinc(case.tensor("x"), source, 32000))


@needs_case
@pytest.mark.parametrize("source", [24000, 32000, 44100, 48000])
def test_soxr_equals_librosa(source: int) -> None:
    case = load_case("tiny_resample")
    resampled = audio.resample_soxr(case.inputs["x"][0], source, 16000)
    case.check(f"soxr_hq_{source}_16000", resampled)


@pytest.mark.parametrize("source", [8000, 44101, 192000])
def test_sinc_keeps_a_tone_at_any_rate(source: int) -> None:
    time = torch.arange(source, dtype=torch.float64) / source
    tone = torch.sin(2 * torch.pi * 440 * time).float()
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(32000, dtype=torch.float64) / 32000)
    resampled = audio.resample_sinc(tone, source, 32000)
    assert resampled.shape == (32000,)
    # Six zero crossings of the window pass a tone within some tenths of a percent.
    assert (resampled - expected)[100:-100].abs().max() < 5e-3


@pytest.mark.parametrize("target", [8000, 22050, 44100, 48000])
def test_stream_equals_whole(target: int) -> None:
    wave = np.random.default_rng(0).normal(size=30011).astype(np.float32)
    stream = audio.StreamResampler(48000, target)
    cuts = [0, 7, 5000, 5000, 20000, len(wave)]
    pieces = [
        stream.push(wave[a:b], last=b == len(wave)) for a, b in zip(cuts, cuts[1:], strict=False)
    ]
    whole = audio.resample_soxr(wave, 48000, target)
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-5)
