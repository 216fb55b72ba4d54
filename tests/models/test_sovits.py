"""Condition side of SoVITS: upstream's arrays, and rows of a batch against themselves alone."""

from __future__ import annotations

import pytest
import torch
from acoustic_models import sovits
from golden import load_case, sizes
from torch.testing import assert_close

from gsv.constants import STYLE_BINS

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.mark.parametrize("size", sizes("extract_latent"))
def test_tokens(size: str) -> None:
    case = load_case(f"{size}_extract_latent")
    quantizer = sovits(size).quantizer
    case.check("ssl_proj", quantizer.projection(case.tensor("hubert")))
    case.check("codes", quantizer.extract_tokens(case.tensor("hubert"))[None])


@pytest.mark.parametrize("size", sizes("decode_encp"))
def test_condition(size: str) -> None:
    case = load_case(f"{size}_decode_encp")
    model = sovits(size)
    timbre = model.style(case.tensor("refer")[:, :STYLE_BINS])
    case.check("ge", timbre)
    for output in (name for name in case.outputs if name.startswith("fea_speed_")):
        speed = float(output.removeprefix("fea_speed_").replace("p", "."))
        condition, frames = model.condition(
            case.tensor("codes")[0], None, case.tensor("phones"), None, timbre, speed
        )
        case.check(output, condition)
        assert frames == [case.meta["lengths"][output]]
        zeros = int((condition[0] == 0).all(0).sum())
        assert zeros == case.meta["zero_frames"][output]


def test_condition_of_a_row_is_that_of_the_row_alone() -> None:
    model = sovits("tiny")
    generator = torch.Generator().manual_seed(1)
    counts, phoneme_counts, speeds = [31, 4, 17], [6, 25, 1], [1.0, 1.1, 0.8]
    tokens = torch.randint(0, 1024, (3, 31), generator=generator)
    phonemes = torch.randint(0, 732, (3, 25), generator=generator)
    timbre = torch.randn(3, model.config.gin_channels, 1, generator=generator)
    together, frames = model.condition(tokens, counts, phonemes, phoneme_counts, timbre, speeds)
    for row, (count, length, speed) in enumerate(zip(counts, phoneme_counts, speeds, strict=True)):
        alone, _ = model.condition(
            tokens[row : row + 1, :count],
            None,
            phonemes[row : row + 1, :length],
            None,
            timbre[row : row + 1],
            speed,
        )
        assert frames[row] == alone.shape[-1]
        assert_close(together[row, :, : frames[row]], alone[0], atol=2e-5, rtol=0)


def test_style_of_a_row_is_that_of_the_row_alone() -> None:
    model = sovits("tiny")
    spectrum = torch.rand(2, STYLE_BINS, 50)
    together = model.style(spectrum, [50, 31])
    assert_close(together[:1], model.style(spectrum[:1]))
    assert_close(together[1:], model.style(spectrum[1:, :, :31]), atol=1e-6, rtol=0)
