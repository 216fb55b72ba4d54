"""A mel in pieces gives the wave of the whole mel, whatever vocoder is served."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from acoustic_models import vocoder
from torch.testing import assert_close

from gsv.config import VocoderConfig
from gsv.stages.mel_stream import MelStream

pytestmark = pytest.mark.usefixtures("no_grad")


def random_mel(frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(100, frames, generator=generator) * 2 - 5


@pytest.mark.parametrize("multiple", [1, 16])
@pytest.mark.parametrize("cuts", [[0, 150], [0, 10, 150], [0, 1, 2, 3, 70, 71, 150, 150]])
def test_stream_joins_to_the_whole(cuts: list[int], multiple: int) -> None:
    model, mel = vocoder("tiny"), random_mel(150)
    scale = model.samples_per_frame
    stream, pieces = MelStream(model.context_frames, multiple), []
    pairs = list(zip(cuts, cuts[1:], strict=False))
    for index, (first, last) in enumerate(pairs):
        window = stream.push(mel[:, first:last].numpy(), last=index == len(pairs) - 1)
        if window is not None:
            leased, begin, end = window
            pieces.append(model(torch.from_numpy(leased)[None])[0, 0, begin * scale : end * scale])
    assert_close(torch.cat(pieces), model(mel[None])[0, 0], atol=1e-6, rtol=0)


def test_later_windows_of_a_stream_come_in_few_sizes() -> None:
    stream = MelStream(context=13, multiple=16)
    sizes = []
    for frames in (60, 41, 77, 130, 25, 100):
        window = stream.push(np.zeros((100, frames), np.float32), last=False)
        assert window is not None
        sizes.append(window[0].shape[-1])
    assert sizes[0] == 60
    assert all(size % 16 == 0 for size in sizes[1:])


def test_the_context_is_that_of_the_vocoder() -> None:
    official = VocoderConfig().context_frames
    narrow = VocoderConfig(resblock_kernels=(3,), resblock_dilations=((1,),)).context_frames
    wide = VocoderConfig(resblock_dilations=((1, 3, 9),) * 3).context_frames
    assert narrow < official < wide
