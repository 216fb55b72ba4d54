"""Windows and batches of mel give the wave of the whole mel."""

from __future__ import annotations

import copy

import pytest
import torch
from acoustic_models import vocoder
from torch.testing import assert_close

from gsv.engine.vocoder_windows import GraphedVocoder, batch_shapes, vocode
from gsv.models.windows import windows

pytestmark = pytest.mark.usefixtures("no_grad")
CONTEXT = 13


def random_mel(frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(100, frames, generator=generator) * 2 - 5


@pytest.mark.parametrize("multiple", [1, 16, 64])
@pytest.mark.parametrize("limit", [27, 64, 400])
@pytest.mark.parametrize("frames", [0, 1, 26, 27, 28, 63, 64, 65, 150, 399, 400, 401, 1234])
def test_windows_cover_a_mel_once(frames: int, limit: int, multiple: int) -> None:
    kept = 0
    cover = windows(frames, CONTEXT, limit, multiple)
    for window in cover:
        assert window.first == kept
        assert window.last > kept
        kept = window.last
        end = window.start + window.size
        assert window.start >= 0
        assert end <= frames
        assert window.start in (0, window.first) or window.first - window.start >= CONTEXT
        assert end == frames or end - window.last >= CONTEXT
    assert kept == frames
    assert len({window.size for window in cover}) <= 1
    if multiple == 1 and frames > limit:
        # The fewest possible: one less would not reach.
        assert (len(cover) - 1) * (limit - 2 * CONTEXT) + 2 * CONTEXT < frames


def test_windows_must_be_wider_than_their_context() -> None:
    with pytest.raises(ValueError, match="windows of 26 frames: must be above twice the context"):
        windows(100, CONTEXT, 26)


@pytest.mark.parametrize(
    ("limit", "multiple", "batch_frames"), [(40, 1, 0), (64, 16, 256), (400, 1, 0)]
)
def test_any_windows_and_company_give_the_wave_of_the_mel_alone(
    limit: int, multiple: int, batch_frames: int
) -> None:
    model = vocoder("tiny")
    mels = [random_mel(frames) for frames in (150, 37, 5, 90, 64, 0)]
    waves = vocode(model, mels, limit, multiple, batch_frames)
    for mel, wave in zip(mels[:-1], waves, strict=False):
        assert_close(wave, model(mel[None])[0, 0], atol=1e-6, rtol=0)
    assert waves[-1].shape == (0,)


def test_batches_have_few_shapes() -> None:
    shapes = batch_shapes(64, 16, 64)
    assert sorted(shapes) == sorted([(1, 16), (2, 16), (4, 16), (1, 32), (2, 32), (1, 48), (1, 64)])
    met = set()

    def compute(mel: torch.Tensor) -> torch.Tensor:
        met.add((mel.shape[0], mel.shape[2]))
        return vocoder("tiny")(mel)

    mels = [random_mel(frames) for frames in (150, 37, 90, 64, 200)]
    vocode(vocoder("tiny"), mels, 64, 16, 64, compute)
    assert met <= set(shapes)
    assert len(met) > 1


def test_on_a_cpu_nothing_is_captured() -> None:
    graphed, mel = GraphedVocoder(vocoder("tiny")), random_mel(30)[None]
    graphed.capture_all([(1, 30)])
    assert len(graphed) == 0
    assert torch.equal(graphed(mel), vocoder("tiny")(mel))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_graphs_give_the_waves_of_plain_calls() -> None:
    model = copy.deepcopy(vocoder("tiny")).cuda()
    graphed = GraphedVocoder(model)
    graphed.capture_all(batch_shapes(64, 16, 128))
    mels = [random_mel(frames).cuda() for frames in (150, 37, 5, 90, 64, 0)]
    plain = vocode(model, mels, 64, 16, 128)
    for one, other in zip(vocode(model, mels, 64, 16, 128, graphed), plain, strict=True):
        assert_close(one, other, atol=1e-5, rtol=0)
