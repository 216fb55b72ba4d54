"""The flow's kernels against the plain functions.

They run on a GPU where there is one, else in Triton's interpreter. Bounds are
for values rounded to half precision once or twice; the reference computes in float32.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from gsv.config import SoVITSConfig
from gsv.engine.flow.graphed_estimator import GraphedEstimator
from gsv.models import attention, dit
from gsv.models.flow import FlowMatching
from gsv.models.layers import set_precision
from gsv.models.masking import length_mask

pytest.importorskip("triton")

from gsv.engine.kernels.cuda import flow as flow_kernels  # noqa: E402
from gsv.engine.kernels.cuda import flow_attention, flow_convolution, flow_norm  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("no_grad"),
    # of the interpreter, about the way it reads numbers
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF = [torch.bfloat16, torch.float16]
# The interpreter multiplies no matrices in bfloat16.
HALF_PRODUCTS = HALF if DEVICE == "cuda" else [torch.float16]


def error(made: Tensor, expected: Tensor) -> float:
    made, expected = made.double(), expected.double()
    return float((made - expected).norm() / expected.norm())


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("rows", "frames", "width"), [(1, 5, 64), (3, 4, 96)])
def test_add_and_norm(rows: int, frames: int, width: int, dtype: torch.dtype) -> None:
    values, hidden = random(rows, frames, width), random(rows, frames, width, dtype=dtype, seed=1)
    parts = random(rows, 3 * width + 7, seed=2)
    gate, scale, shift = parts[:, 7:].chunk(3, dim=-1)
    wanted, wanted_normed = dit.add_and_norm(
        values, hidden.float(), gate, scale, shift, torch.float32
    )
    made, normed = flow_norm.add_and_norm(values.clone(), hidden, gate, scale, shift, dtype)
    assert normed.dtype == dtype
    assert_close(made, wanted, atol=1e-5, rtol=1e-5)
    assert error(normed, wanted_normed) < 0.004


def test_add_and_norm_with_nothing_to_add_and_one_time_for_all() -> None:
    values, parts = random(2, 3, 64), random(1, 128, seed=1)
    scale, shift = parts.chunk(2, dim=-1)
    wanted = dit.add_and_norm(values, None, None, scale, shift, torch.float32)[1]
    kept, normed = flow_norm.add_and_norm(values, None, None, scale, shift, torch.float16)
    assert kept is values
    assert error(normed, wanted) < 0.001


def heads(rows: int, frames: int, dtype: torch.dtype, scale: float = 1.0) -> list[Tensor]:
    """Query, key and value as views of their common product."""
    made = random(rows, frames, 3 * 2 * 64, dtype=torch.float32, seed=frames) * scale
    return [part.unflatten(-1, (2, 64)) for part in made.to(dtype).chunk(3, dim=-1)]


TILES = [None, *flow_attention.CANDIDATES]


@pytest.mark.parametrize("dtype", HALF_PRODUCTS)
@pytest.mark.parametrize("tiles", TILES)
def test_attention(tiles: flow_attention.Tiles | None, dtype: torch.dtype) -> None:
    query, key, value = heads(2, 200, dtype)
    wanted = attention.attend(query.float(), key.float(), value.float(), None)
    made = flow_attention.attend(query, key, value, None, tiles)
    assert error(made, wanted) < 0.005


@pytest.mark.parametrize("scale", [4.0, 20.0])
def test_attention_to_few_keys(scale: float) -> None:
    query, key, value = heads(1, 70, torch.float16, scale)
    wanted = attention.attend(query.float(), key.float(), value.float(), None)
    assert error(flow_attention.attend(query, key, value, None), wanted) < 0.005


def test_attention_of_rows_of_different_lengths() -> None:
    lengths = [130, 1, 64, 129]
    query, key, value = heads(4, 200, torch.float16)
    for row, length in enumerate(lengths):
        for part in (query, key, value):
            part[row, length:] = float("nan")
    given = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
    made = flow_attention.attend(query, key, value, given)
    assert torch.isfinite(made).all(), "what lies beyond a length must not spread"
    for row, length in enumerate(lengths):
        own = [part[row : row + 1, :length] for part in (query, key, value)]
        wanted = attention.attend(*(part.float() for part in own), None)
        assert error(made[row : row + 1, :length], wanted) < 0.005


def test_attention_of_parts_that_lie_differently() -> None:
    query, key, value = heads(1, 20, torch.float16)
    with pytest.raises(ValueError, match="must be the same"):
        flow_attention.attend(query.contiguous(), key, value, None)


@pytest.mark.parametrize("own", [False, True])
def test_rotation(own: bool) -> None:
    query, key, _ = heads(2, 70, torch.float16)
    angles = random(2, 70, 32, seed=3) if own else random(70, 32, seed=3)
    rotation = torch.polar(torch.ones_like(angles), angles)
    wanted = [part.float() for part in (query, key)]
    dit.rotate_first_heads(*wanted, rotation)
    flow_attention.rotate_first_heads(query, key, rotation)
    for made, expected in zip((query, key), wanted, strict=True):
        assert_close(made.float(), expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("dtype", HALF_PRODUCTS)
@pytest.mark.parametrize("ragged", [False, True])
def test_position_convolution(ragged: bool, dtype: torch.dtype) -> None:
    layer = dit.PositionConvolution(64, taps=5, groups=2).to(DEVICE)
    for parameter in layer.parameters():
        parameter.copy_(random(*parameter.shape, seed=parameter.numel()) * 0.2)
    values = random(3, 150, 64)
    lengths = torch.tensor([150, 3, 90], device=DEVICE) if ragged else None
    wanted = layer(values, lengths, length_mask(lengths, 150))
    layer.first.to(dtype)
    layer.second.to(dtype)
    made = flow_convolution.PositionKernel(layer)(values.clone(), lengths)
    for row, length in enumerate([150, 3, 90] if ragged else [150] * 3):
        assert error(made[row, :length] - values[row, :length], (wanted - values)[row, :length]) < (
            0.01
        )
        assert torch.equal(made[row, length:], values[row, length:])


def tiny_flow() -> FlowMatching:
    config = SoVITSConfig(
        dit_dim=256, dit_heads=4, dit_head_dim=64, dit_depth=2, condition_channels=32
    )
    torch.manual_seed(0)
    flow = FlowMatching(config).eval().requires_grad_(False)
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=max(1, parameter[0].numel()) ** -0.5)
    torch.nn.init.uniform_(flow.estimator.inverse_frequencies)
    return flow.to(DEVICE)


def test_an_estimator_in_its_kernels() -> None:
    exact = tiny_flow()
    flow = copy.deepcopy(exact)
    assert not flow_kernels.can_run(flow.estimator), "float32 is not the kernels'"
    for module in (flow.estimator.blocks, flow.estimator.position, flow.estimator.output):
        for layer in module.modules():
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv1d):
                layer.to(torch.float16)  # without a CPU's layout
    assert flow_kernels.can_run(flow.estimator)
    inputs, noisy = random(3, 40, 256), random(3, 40, 100, seed=1)
    lengths = torch.tensor([40, 23, 1], device=DEVICE)
    times = exact.schedule(4)[:3]
    wanted = exact.estimator(noisy, inputs, times, lengths)
    plain = flow.estimator(noisy, inputs, times, lengths)
    for layer in flow.estimator.modules():
        if isinstance(layer, dit.Attention):
            layer.merge()
    merged = flow.estimator(noisy, inputs, times, lengths)
    flow_kernels.set_kernels(flow.estimator)
    kept = noisy.clone(), inputs.clone()
    made = flow.estimator(noisy, inputs, times, lengths)
    assert torch.equal(kept[0], noisy)
    assert torch.equal(kept[1], inputs), "what was given must stay"
    for row, length in enumerate(lengths.tolist()):
        for one in (plain, merged, made):
            assert error(one[row, :length], wanted[row, :length]) < 0.005
    flow_kernels.unset_kernels(flow.estimator)
    assert torch.equal(flow.estimator(noisy, inputs, times, lengths), merged)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("early", [False, True])
def test_a_gpu_takes_them(early: bool) -> None:
    flow = tiny_flow()
    noisy, inputs = random(2, 192, 100), random(2, 192, 256, seed=1)
    lengths = torch.tensor([192, 70], device=DEVICE, dtype=torch.int32)
    times = flow.schedule(4)[:2]
    wanted = flow.estimator(noisy, inputs, times, lengths)
    set_precision(flow, torch.bfloat16)
    assert flow_kernels.accelerate(flow, early=early)
    graphed = GraphedEstimator(flow.estimator)
    graphed.capture(2, 256)
    assert len(graphed) == 1
    for _ in range(20):
        for estimate in (flow.estimator, graphed):
            made = estimate(noisy, inputs, times, lengths)
            for row, length in enumerate(lengths.tolist()):
                assert error(made[row, :length], wanted[row, :length]) < 0.03


def test_a_cpu_stays_as_it_is() -> None:
    flow = tiny_flow().cpu()
    assert not flow_kernels.accelerate(flow)
