"""What low precision costs in mel and wave; the bounds are some times what was measured."""

from __future__ import annotations

import math

import pytest
import torch
from acoustic_models import sovits, vocoder
from golden import load_case, sizes
from torch import Tensor

from gsv.engine.flow.engine import FlowEngine, FlowRequest

pytestmark = pytest.mark.usefixtures("no_grad")


def decibels(made: Tensor, exact: Tensor) -> float:
    """Error against the signal."""
    return 10 * math.log10((made - exact).square().mean() / exact.square().mean())


@pytest.mark.parametrize("size", sizes("cfm"))
@pytest.mark.parametrize(
    ("dtype", "bound"),
    [(torch.float32, -100.0), (torch.float16, -55.0), (torch.bfloat16, -40.0)],
)
def test_mel(size: str, dtype: torch.dtype, bound: float) -> None:
    case = load_case(f"{size}_cfm")
    prompt = case.tensor("prompt")[0]
    start = prompt.shape[1]
    job = FlowRequest(
        condition=case.tensor("mu")[0].mT,
        prompt=prompt,
        steps=8,
        noise=case.tensor("noise")[0, :, start:],
    )
    try:
        sovits(size).set_precision(dtype)
        engine = FlowEngine(sovits(size).flow)
        engine.start()
        mel = engine.run(job)
        engine.stop()
    finally:
        sovits.cache_clear()  # the shared model has been changed
    error = decibels(mel, torch.from_numpy(case.outputs["x_n8_cfg0"])[0, :, start:])
    assert error < bound, f"{error:.1f} dB"


# float16 stays within -60 dB at full size and is the GPU's choice; the tiny network's few channels
# average less of the rounding away. bfloat16 doesn't, so a CPU keeps float32.
@pytest.mark.parametrize("size", sizes("vocoder"))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_wave(size: str, dtype: torch.dtype) -> None:
    case = load_case(f"{size}_vocoder")
    try:
        model = vocoder(size)
        model.set_precision(dtype)
        wave = model(case.tensor("mel"))
    finally:
        vocoder.cache_clear()
    error = decibels(wave, torch.from_numpy(case.outputs["wav"]))
    bounds = {
        ("full", torch.float16): -60,
        ("tiny", torch.float16): -50,
        ("full", torch.bfloat16): -40,
        ("tiny", torch.bfloat16): -30,
    }
    assert error < bounds[size, dtype], f"{error:.1f} dB"
