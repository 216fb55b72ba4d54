"""The CPU's form of attention and of linear layers against the plain ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from gsv.models import attention
from gsv.models.attention import attend
from gsv.models.layers import Linear, gelu_tanh, onednn_serves, set_precision

pytestmark = pytest.mark.usefixtures("no_grad")


def heads(rows: int = 2, frames: int = 33, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, frames, 4, 16, generator=generator) * scale for _ in range(3)]


def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    parts = (part.transpose(1, 2) for part in (query, key, value))
    return functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Records for each call of :func:`attend` that the CPU's form was taken."""
    if not onednn_serves(torch.empty(0)):
        pytest.skip("this torch has no oneDNN")
    taken: list[bool] = []
    original = attention._attend_on_cpu

    def recorded(*arguments: Tensor) -> Tensor:
        taken.append(True)
        return original(*arguments)

    monkeypatch.setattr(attention, "_attend_on_cpu", recorded)
    return taken


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_equals_plain_attention(fast: list[bool], scale: float) -> None:
    query, key, value = heads(scale=scale)
    assert_close(attend(query, key, value, None), plain(query, key, value), atol=2e-5, rtol=0)
    assert fast == [True]


def test_a_bias_of_all_keys_is_no_matter(fast: list[bool]) -> None:
    query, key, value = heads()
    shifted = attend(query, key + 3, value, None)
    assert_close(shifted, plain(query, key, value), atol=2e-5, rtol=0)


def test_rows_see_their_own_keys_only(fast: list[bool]) -> None:
    query, key, value = heads()
    key[1, 20:] = value[1, 20:] = float("nan")
    query[1, 20:] = 0
    key[1, 20:] = 0
    mixed = attend(query, key, value, torch.tensor([33, 20]))
    assert_close(mixed[:1], plain(query[:1], key[:1], value[:1]), atol=2e-5, rtol=0)
    alone = plain(*(part[1:, :20] for part in (query, key, value)))
    assert_close(mixed[1:, :20], alone, atol=2e-5, rtol=0)
    assert fast


def test_scores_that_could_overflow_take_the_plain_way(fast: list[bool]) -> None:
    query, key, value = heads(scale=30.0)
    mixed = attend(query, key, value, torch.tensor([33, 33]))
    assert_close(mixed, plain(query, key, value), atol=1e-3, rtol=1e-3)
    assert fast == []


def test_low_precision_stays_near() -> None:
    query, key, value = heads()
    rounded = attend(query.bfloat16(), key.bfloat16(), value.bfloat16(), None).float()
    exact = plain(query, key, value)
    assert (rounded - exact).square().mean().sqrt() < 0.01 * exact.square().mean().sqrt()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", [None, gelu_tanh])
def test_laid_out_linear_equals_plain(dtype: torch.dtype, activation: object) -> None:
    torch.manual_seed(0)
    layer = Linear(24, 40, activation=activation)  # type: ignore[arg-type]
    values = torch.randn(2, 7, 24)
    expected = layer(values)
    set_precision(layer, dtype)
    made = layer(values)
    assert made.dtype == dtype
    assert_close(made.float(), expected, atol=1e-6 if dtype == torch.float32 else 0.03, rtol=0)
