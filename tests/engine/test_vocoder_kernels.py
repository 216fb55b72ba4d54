"""The vocoder's convolutions in Triton's language against the plain ones.

They run on a GPU where there is one, else in Triton's interpreter.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from gsv.config import VocoderConfig
from gsv.models.vocoder import ActivatedConv1d, Vocoder

pytest.importorskip("triton")

from gsv.engine.kernels.cuda import vocoder as vocoder_kernels  # noqa: E402
from gsv.engine.kernels.cuda.vocoder_convolution import ConvolutionKernel  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("no_grad"),
    # of the interpreter, about the way it reads numbers
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter multiplies no matrices in bfloat16.
HALF = [torch.float16, torch.bfloat16] if DEVICE == "cuda" else [torch.float16]


def error(made: Tensor, expected: Tensor) -> float:
    made, expected = made.double(), expected.double()
    return float((made - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("channels", "taps", "dilation"), [(16, 3, 5), (64, 7, 1), (128, 11, 3)])
def test_equals_pytorch(channels: int, taps: int, dilation: int, dtype: torch.dtype) -> None:
    torch.manual_seed(taps)
    layer = ActivatedConv1d(channels, taps, dilation).to(DEVICE)
    values, residual = torch.randn(2, 2, 75, channels, device=DEVICE)
    exact, added = layer(values), layer(values, residual)
    layer.to(dtype)
    kernel = ConvolutionKernel(layer)
    made = kernel(values)
    assert made.dtype == dtype
    assert error(made, exact) < 0.005
    summed = kernel(values, residual)
    assert summed.dtype == torch.float32
    assert error(summed, added) < 0.005
    active = torch.nn.functional.leaky_relu(values, layer.slope)
    assert error(ConvolutionKernel(layer, activates_input=False)(active), exact) < 0.005
    later = ConvolutionKernel(layer, activates_output=True)(values)
    assert error(later, torch.nn.functional.leaky_relu(exact, layer.slope)) < 0.005


def small() -> Vocoder:
    torch.manual_seed(0)
    config = VocoderConfig(
        initial_channels=64,
        upsample_rates=(2, 2),
        upsample_kernels=(4, 4),
        resblock_kernels=(3, 7),
        resblock_dilations=((1, 3), (1, 3)),
    )
    made = Vocoder(config).eval().requires_grad_(False)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=max(1, parameter[0].numel()) ** -0.5)
    return made.to(DEVICE)


def test_a_vocoder_in_its_kernels() -> None:
    exact = small()
    assert not vocoder_kernels.can_run(exact), "float32 is not the kernels'"
    rounded = copy.deepcopy(exact)
    for layer in vocoder_kernels._layers(rounded):
        layer.to(torch.float16)
    assert vocoder_kernels.can_run(rounded)
    mel = torch.randn(2, 100, 21, device=DEVICE)
    wanted, plain = exact(mel), rounded(mel)
    vocoder_kernels.set_kernels(rounded)
    made = rounded(mel)
    assert 0 < error(made, wanted) < max(0.002, 2 * error(plain, wanted))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_takes_them() -> None:
    model = small()
    model.set_precision(torch.float16)
    assert vocoder_kernels.accelerate(model)


def test_a_cpu_stays_as_it_is() -> None:
    assert not vocoder_kernels.accelerate(small().cpu())
