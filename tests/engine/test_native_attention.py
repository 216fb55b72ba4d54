"""The compiled attention against PyTorch's in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gsv.config import SoVITSConfig
from gsv.engine.kernels.cpu.attention import NativeAttention, accelerate
from gsv.engine.kernels.cpu.build import load_kernel
from gsv.models.flow import FlowMatching
from gsv.models.layers import set_precision

LIBRARY = load_kernel("attention")
pytestmark = [
    pytest.mark.usefixtures("no_grad"),
    pytest.mark.skipif(
        LIBRARY is None or not LIBRARY.gsv_supported(), reason="no C compiler or no AVX512-BF16"
    ),
]


def heads(rows: int, frames: int, width: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(frames)
    parts = torch.randn(3, rows, frames, 3, width, generator=generator) * scale
    return list(parts.bfloat16())


def exact(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    parts = (part.double().transpose(1, 2) for part in (query, key, value))
    return functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


def error(made: Tensor, expected: Tensor) -> float:
    made = made.double()
    return float((made - expected).square().mean().sqrt() / expected.square().mean().sqrt())


def run(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None = None) -> Tensor:
    return NativeAttention(LIBRARY)(query, key, value, lengths)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize("frames", [1, 2, 11, 12, 13, 31, 33, 255, 256, 257, 700])
def test_equals_pytorch(frames: int, width: int) -> None:
    query, key, value = heads(2, frames, width)
    # Weights and the result are rounded to eight bits each.
    assert error(run(query, key, value), exact(query, key, value)) < 0.005


@pytest.mark.parametrize("scale", [4.0, 30.0])
def test_scores_of_any_size(scale: float) -> None:
    query, key, value = heads(1, 300, 64, scale)
    assert error(run(query, key, value), exact(query, key, value)) < 0.005


def test_rows_see_their_own_keys_only() -> None:
    query, key, value = heads(3, 70, 64)
    lengths = [70, 1, 41]
    for part in (query, key, value):
        part[1, 1:] = part[2, 41:] = float("nan")
    made = run(query, key, value, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        own = [part[row : row + 1, :length] for part in (query, key, value)]
        assert torch.equal(made[row : row + 1, :length], run(*own))
        assert (made[row, length:] == 0).all()


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_threads_change_nothing(threads: int) -> None:
    query, key, value = heads(1, 100, 64)
    expected = run(query, key, value)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert torch.equal(run(query, key, value), expected)
    finally:
        torch.set_num_threads(before)


def test_an_estimator_with_the_kernel() -> None:
    config = SoVITSConfig(
        dit_dim=128, dit_heads=4, dit_head_dim=32, dit_depth=2, condition_channels=32
    )
    torch.manual_seed(0)
    flow = FlowMatching(config).eval()
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=max(1, parameter[0].numel()) ** -0.5)
    torch.nn.init.uniform_(flow.estimator.inverse_frequencies)
    inputs, noisy = torch.randn(2, 50, 128), torch.randn(2, 50, 100)
    lengths = torch.tensor([50, 31])
    assert not accelerate(flow), "float32 is not the kernel's"
    expected = flow.estimator(noisy, inputs, flow.schedule(4)[:2], lengths)
    set_precision(flow, torch.bfloat16)
    assert accelerate(flow)
    made = flow.estimator(noisy, inputs, flow.schedule(4)[:2], lengths)
    assert error(made[1, :31], expected[1, :31].double()) < 0.03
    assert error(made[0], expected[0].double()) < 0.03
