"""The compiled residual convolution against PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from acoustic_models import vocoder
from golden import load_case, sizes
from torch.testing import assert_close

from gsv.engine.kernels.cpu.build import load_kernel
from gsv.engine.kernels.cpu.convolution import ShortConvolution, accelerate, transforms
from gsv.models.vocoder import ActivatedConv1d

LIBRARY = load_kernel("short_convolution")
pytestmark = [
    pytest.mark.usefixtures("no_grad"),
    pytest.mark.skipif(
        LIBRARY is None or not LIBRARY.gsv_supported(),
        reason="no C compiler, or neither AVX-512 nor AVX2 here",
    ),
]


@pytest.mark.parametrize("dilation", [1, 3, 5])
@pytest.mark.parametrize("taps", [3, 7, 11])
@pytest.mark.parametrize("channels", [16, 48, 64, 96, 128])
def test_equals_pytorch(channels: int, taps: int, dilation: int) -> None:
    torch.manual_seed(taps)
    layer = ActivatedConv1d(channels, taps, dilation)
    kernel = ShortConvolution(LIBRARY, layer)  # type: ignore[arg-type]
    for length in (1, 5, 6, 7, 61, 1000):
        values, residual = torch.randn(2, 2, length, channels)
        assert_close(kernel(values, residual), layer(values, residual), atol=2e-4, rtol=0)
        assert_close(kernel(values), layer(values), atol=2e-4, rtol=0)


def test_values_need_not_be_contiguous() -> None:
    layer = ActivatedConv1d(16, 3, 1)
    kernel = ShortConvolution(LIBRARY, layer)  # type: ignore[arg-type]
    values = torch.randn(1, 16, 100).mT
    assert_close(kernel(values), layer(values), atol=2e-4, rtol=0)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(threads: int) -> None:
    layer = ActivatedConv1d(16, 11, 3)
    kernel = ShortConvolution(LIBRARY, layer)  # type: ignore[arg-type]
    values = torch.randn(1, 20_000, 16)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert_close(kernel(values), layer(values), atol=2e-4, rtol=0)
    finally:
        torch.set_num_threads(before)


def test_minimal_filter() -> None:
    inward, weightward, outward = transforms(2, 3, (0, 1, -1))
    inputs, weights = np.array([1.0, 2.0, 3.0, 5.0]), np.array([0.5, -1.0, 2.0])
    made = outward @ ((weightward @ weights) * (inward @ inputs))
    np.testing.assert_allclose(made, np.correlate(inputs, weights, mode="valid"))


@pytest.mark.parametrize("size", sizes("vocoder"))
def test_wave(size: str) -> None:
    case = load_case(f"{size}_vocoder")
    model = vocoder(size)
    exact = model(case.tensor("mel"))
    try:
        assert accelerate(model)
        wave = model(case.tensor("mel"))
    finally:
        vocoder.cache_clear()  # the shared model has been changed
    case.check("wav", wave)
    error = (wave - exact).square().mean() / exact.square().mean()
    assert 0 < error < 1e-10, "the kernel must run, and stay within -100 dB"


def test_low_precision_is_left_alone() -> None:
    model = vocoder("tiny")
    try:
        model.set_precision(torch.bfloat16)
        assert not accelerate(model)
    finally:
        vocoder.cache_clear()
