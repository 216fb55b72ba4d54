"""Spectrum, mel and their scale against upstream's arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden import Case, has_case, load_case, sizes

from gsv import audio


def wave_of(case: Case) -> torch.Tensor:
    return torch.from_numpy(case.inputs["wav_i16"].astype(np.float32) / 32768).mean(0)


@pytest.mark.parametrize("size", sizes("spec"))
def test_spectrum_and_mel(size: str) -> None:
    case = load_case(f"{size}_spec")
    wave = wave_of(case)
    spectrum, mel = audio.spectrum(wave[None]), audio.log_mel(wave[None])
    assert list(spectrum.shape) == case.meta["full_shapes"]["spec"]
    assert list(mel.shape) == case.meta["full_shapes"]["mel"]
    case.check("spec_slice", spectrum[..., : case.outputs["spec_slice"].shape[-1]])
    frames = case.outputs["mel"].shape[-1]
    case.check("mel", mel[..., :frames])
    case.check("mel_norm", audio.normalize_mel(mel)[..., :frames])


def test_leading_dimensions_are_free() -> None:
    waves = torch.randn(2, 3, 6400)
    assert audio.log_mel(waves).shape == (2, 3, 100, 20)
    torch.testing.assert_close(audio.spectrum(waves)[1, 2], audio.spectrum(waves[1, 2]))


def test_normalising_and_back() -> None:
    mel = torch.tensor([-12.0, -5.0, 2.0])
    torch.testing.assert_close(audio.normalize_mel(mel), torch.tensor([-1.0, 0.0, 1.0]))
    torch.testing.assert_close(audio.denormalize_mel(audio.normalize_mel(mel)), mel)


@pytest.mark.golden
@pytest.mark.skipif(not has_case("tiny_spec"), reason="no tiny_spec case")
def test_mel_filters() -> None:
    load_case("tiny_spec").check("mel_filterbank", audio.mel_filters(32000, 1280, 100))
