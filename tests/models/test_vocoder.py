"""The vocoder against upstream's waves, and its receptive field."""

from __future__ import annotations

import pytest
import torch
from acoustic_models import vocoder
from golden import load_case, sizes

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.mark.parametrize("size", sizes("vocoder"))
def test_wave(size: str) -> None:
    case = load_case(f"{size}_vocoder")
    case.check("wav", vocoder(size)(case.tensor("mel")))


def test_context_is_the_receptive_field() -> None:
    model = vocoder("tiny")
    mel = torch.randn(100, 81, generator=torch.Generator().manual_seed(0))
    changed = mel.clone()
    changed[:, 40] += 10
    difference = (model(mel[None]) - model(changed[None]))[0, 0].view(81, -1).abs().amax(1)
    touched = difference.nonzero()[:, 0].tolist()
    assert touched[0] >= 40 - model.context_frames
    assert touched[-1] <= 40 + model.context_frames
    # Counted from the layers, it is exact but for what the kernels' far ends can't move.
    assert touched[0] <= 40 - model.context_frames + 2
