"""The GPT's kernels in Triton's language against the plain versions: on a GPU, else interpreted."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

# Triton's interpreter computes with NumPy, which remarks on NaN and on its own ways.
pytestmark = [
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are defined

pytest.importorskip("triton", reason="Triton's language is not installed")

from gsv.config import GPTConfig  # noqa: E402
from gsv.engine.gpt.cache import KVCache  # noqa: E402
from gsv.engine.gpt.row_state import RowState  # noqa: E402
from gsv.engine.gpt.sampling import SamplingTensors, draw  # noqa: E402
from gsv.engine.gpt.sequence import SamplingParams  # noqa: E402
from gsv.engine.kernels.cuda.gpt_decode import FusedDecode  # noqa: E402
from gsv.engine.kernels.cuda.gpt_sampling import draw_fused  # noqa: E402
from gsv.engine.noise import exponential_steps  # noqa: E402
from gsv.models.gpt import SemanticGPT  # noqa: E402

VOCABULARY = 1025
EOS = VOCABULARY - 1
# The interpreter does not know how to compute in bfloat16.
DTYPES = [torch.float16, *([torch.bfloat16] if DEVICE.type == "cuda" else [])]
SETTINGS = [(15, 1.0, 1.0), (1, 0.9, 1.0), (1025, 0.6, 0.7), (50, 0.3, 1.3), (5, 1.0, 2.0)]


@pytest.mark.parametrize("trial", range(4))
@pytest.mark.parametrize("advance", [False, True])
def test_drawing_equals_the_plain_version(trial: int, advance: bool) -> None:
    generator = torch.Generator().manual_seed(trial)
    slots, first = 6, 1
    rows = slice(first, first + len(SETTINGS) - 1)
    logits = torch.randn(rows.stop - first, VOCABULARY, generator=generator) * 3
    if trial == 3:
        logits[0, 7] = torch.nan
        logits[1, EOS] = 60.0
    state = RowState(slots, VOCABULARY, DEVICE)
    seen = torch.rand(slots, VOCABULARY, generator=generator) < 0.1
    steps = torch.tensor([0, 5, 11, 40, 3, 7])
    seeds = torch.tensor([1, 2**62 + 5, 3, 2**63 - 1, 5, 6])
    state.seen.copy_(seen)
    state.integers[1], state.integers[3], state.integers[4] = 30, steps, seeds
    state.integers[5] = torch.arange(slots) + trial
    state.integers[6] = 1
    state.integers[6, 3] = 0  # a free row, which a graph runs along
    params = [SamplingParams(seed=0, top_k=k, top_p=p, temperature=t) for k, p, t in SETTINGS]
    for slot, one in enumerate(params):
        values = (one.top_k, one.top_p, one.temperature, one.repetition_penalty)
        state.controls[:, slot] = torch.tensor(values)

    draw_fused(
        logits.to(DEVICE),
        state.seen,
        state.integers,
        state.controls,
        state.outcome,
        first_row=first,
        eos=EOS,
        advance=advance,
    )

    noise = [
        exponential_steps(int(seeds[r]), r + trial, int(steps[r]), 1, VOCABULARY)
        for r in range(slots)
    ]
    expected = draw(
        logits,
        seen[rows],
        steps[rows] < 11,
        torch.from_numpy(np.concatenate(noise[rows])),
        SamplingTensors.of(params[rows]),
        EOS,
    )
    outcome, integers = state.outcome.cpu(), state.integers.cpu()
    for index, slot in enumerate(range(rows.start, rows.stop)):
        if slot == 3:
            assert outcome[slot].tolist() == [0, 0, 0]
            assert integers[3, slot] == steps[slot]
            assert torch.equal(state.seen[slot].cpu(), seen[slot])
            continue
        healthy = bool(expected.healthy[index])
        assert bool(outcome[slot, 2]) == healthy
        assert integers[3, slot] == steps[slot] + 1
        assert integers[1, slot] == 30 + advance
        if not healthy:
            continue  # the token means nothing
        token = int(expected.tokens[index])
        assert outcome[slot, :2].tolist() == [token, int(expected.ended[index])]
        assert integers[0, slot] == token
        assert state.seen[slot, token]


def small_model(dtype: torch.dtype) -> SemanticGPT:
    torch.manual_seed(0)
    config = GPTConfig(hidden_dim=128, heads=4, layers=2, vocabulary=97, phonemes=50, eos=96)
    model = SemanticGPT(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.08)
        if "norm.weight" in name:
            parameter += 1
    return model.to(DEVICE).set_precision(dtype)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason="no CUDA device")
def test_kernels_that_start_early_give_the_same() -> None:
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("needs compute capability 9.0")
    model = small_model(torch.bfloat16)
    cache = KVCache(model.config, 2, 600, torch.bfloat16, DEVICE)
    state = [torch.tensor([n, n + 1], device=DEVICE) for n in (3, 270, 100)]
    with torch.inference_mode():
        made = [FusedDecode(model, cache, early=early)(*state).clone() for early in (False, True)]
    assert torch.equal(*made)


@pytest.mark.parametrize("dtype", DTYPES)
def test_decoding_equals_the_plain_version(dtype: torch.dtype) -> None:
    model = small_model(dtype)
    rows, slots = 18, 20  # more than one block of rows
    cache = KVCache(model.config, slots, 600, dtype, DEVICE)
    cache.storage.copy_(torch.randn(cache.storage.shape, device=DEVICE))
    before = cache.storage.clone()
    generator = torch.Generator().manual_seed(1)
    positions = torch.randint(8, 700, (rows,), generator=generator).to(DEVICE)
    text_lengths = positions // 2
    tokens = torch.randint(0, 97, (rows,), generator=generator).to(DEVICE)
    assert FusedDecode.serves(model, cache)
    fused = FusedDecode(model, cache, early=False)
    with torch.inference_mode():
        made = fused(tokens, positions, text_lengths).clone()
        written = cache.storage.clone()
        cache.storage.copy_(before)
        window = cache.window(0, rows, cache.max_length)
        expected = model.decode(tokens, positions, text_lengths, window)
        rounding = 0.01 if dtype == torch.float16 else 0.08
        torch.testing.assert_close(made, expected, atol=rounding, rtol=0)
        torch.testing.assert_close(written, cache.storage, atol=rounding, rtol=0)

        # Each row alone: to the bit.
        for row in (0, 17):
            cache.storage.copy_(before)
            cache.storage[0] = before[row]
            alone = fused(tokens[row, None], positions[row, None], text_lengths[row, None])
            assert torch.equal(alone[0], made[row])


def test_what_lies_beyond_a_row_is_never_read() -> None:
    model = small_model(torch.float16)
    cache = KVCache(model.config, 2, 600, torch.float16, DEVICE)
    fused = FusedDecode(model, cache, early=False)
    state = [torch.tensor([n, n + 1], device=DEVICE) for n in (3, 270, 100)]
    with torch.inference_mode():
        expected = fused(*state).clone()
        cache.storage[0, :, 271:] = torch.nan
        cache.storage[1, :, 272:] = torch.nan
        assert torch.equal(fused(*state), expected)


def test_other_precisions_and_shapes_are_left_to_the_plain_version() -> None:
    model = small_model(torch.float32)
    cache = KVCache(model.config, 1, 256, torch.float32, DEVICE)
    assert not FusedDecode.serves(model, cache)
