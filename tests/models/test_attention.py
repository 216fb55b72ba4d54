"""The CPU's form of attention, and layers laid out for it, against the plain ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from gsv.models.attention import attend
from gsv.models.layers import (
    Linear,
    RowConv1d,
    RowUpsample,
    gelu_tanh,
    onednn_serves,
    set_precision,
)

pytestmark = [
    pytest.mark.usefixtures("no_grad"),
    pytest.mark.skipif(
        not onednn_serves(torch.empty(0)), reason="without oneDNN there is only the plain form"
    ),
]


def heads(rows: int = 2, frames: int = 33, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, frames, 4, 16, generator=generator) * scale for _ in range(3)]


def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    parts = (part.transpose(1, 2) for part in (query, key, value))
    return functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_equals_plain_attention(scale: float) -> None:
    query, key, value = heads(scale=scale)
    expected = plain(query, key, value)
    assert_close(attend(query, key, value, None), expected, atol=2e-5 * scale, rtol=0)


def test_scores_that_would_overflow() -> None:
    query, key, value = heads(scale=30.0)
    query[:, :, 1] *= 0.01  # one head is harmless
    mixed = attend(query, key, value, None)
    assert_close(mixed, plain(query, key, value), atol=1e-2, rtol=1e-3)


def test_a_bias_of_all_keys_is_no_matter() -> None:
    query, key, value = heads()
    shifted = attend(query, key + 100, value, None)
    assert_close(shifted, plain(query, key, value), atol=1e-3, rtol=0)


def test_rows_see_their_own_keys_only() -> None:
    query, key, value = heads()
    for part in (query, key, value):
        part[1, 20:] = float("nan")
    mixed = attend(query, key, value, torch.tensor([33, 20]))
    assert_close(mixed[:1], plain(query[:1], key[:1], value[:1]), atol=2e-5, rtol=0)
    alone = plain(*(part[1:, :20] for part in (query, key, value)))
    assert_close(mixed[1:, :20], alone, atol=2e-5, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_low_precision_stays_near(scale: float) -> None:
    query, key, value = heads(scale=scale)
    rounded = attend(query.bfloat16(), key.bfloat16(), value.bfloat16(), None).float()
    exact = plain(*(part.bfloat16().float() for part in (query, key, value)))
    error = (rounded - exact).square().mean() / exact.square().mean()
    assert error.sqrt() < 0.01 * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", [None, gelu_tanh])
def test_laid_out_linear_equals_plain(
    dtype: torch.dtype, activation: Callable[[Tensor], Tensor] | None
) -> None:
    torch.manual_seed(0)
    layer = Linear(24, 40, activation=activation)
    values = torch.randn(2, 7, 24)
    expected = layer(values)
    set_precision(layer, dtype)
    made = layer(values)
    assert made.dtype == dtype
    assert_close(made.float(), expected, atol=1e-6 if dtype == torch.float32 else 0.03, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("groups", "dilation"), [(1, 1), (1, 3), (4, 1), (4, 2)])
def test_laid_out_convolution_equals_plain(dtype: torch.dtype, groups: int, dilation: int) -> None:
    torch.manual_seed(0)
    layer = RowConv1d(16, 16, 5, padding=2 * dilation, dilation=dilation, groups=groups)
    values = torch.randn(2, 21, 16)
    plain_layer = torch.nn.Conv1d(16, 16, 5, padding=2 * dilation, dilation=dilation, groups=groups)
    plain_layer.load_state_dict(layer.state_dict())
    expected = plain_layer(values.mT).mT
    assert_close(layer(values), expected, atol=1e-6, rtol=0)
    set_precision(layer, dtype)
    made = layer(values)
    assert made.dtype == dtype
    assert_close(made.float(), expected, atol=1e-6 if dtype == torch.float32 else 0.03, rtol=0)


@pytest.mark.parametrize("stride", [2, 6, 10])
@pytest.mark.parametrize("laid_out", [False, True])
def test_upsampling_equals_transposed_convolution(stride: int, laid_out: bool) -> None:
    layer, values = RowUpsample(8, 3, stride), torch.randn(2, 11, 8)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    expected = functional.conv_transpose1d(
        values.mT, layer.weight, layer.bias, stride, padding=stride // 2
    ).mT
    if laid_out:
        set_precision(layer, torch.float32)
    assert_close(layer(values), expected, atol=1e-5, rtol=0)


def test_precision_is_set_once() -> None:
    layer = Linear(8, 8)
    set_precision(layer, torch.float32)
    with pytest.raises(RuntimeError, match="laid out already; set the precision only once"):
        set_precision(layer, torch.bfloat16)
