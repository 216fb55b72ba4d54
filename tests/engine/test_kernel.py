"""The compiled decoding step, and the graphs' buckets, against the plain model."""

from __future__ import annotations

import pytest
import torch
from gpt_models import KnownGPT, golden_config, golden_gpt

from gsv.engine.gpt.cache import KVCache
from gsv.engine.gpt.engine import Engine
from gsv.engine.kernels.cpu import build
from gsv.engine.kernels.cpu.gpt_decode import NativeDecode, quantize
from gsv.errors import ConfigurationError

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(
    build.load_kernel("gpt_decode") is None, reason="no C compiler here"
)


def kernel_and_state(dtype: torch.dtype, rows: int, int8: bool = False):
    """A model, its kernel and a step's inputs over a cache of random content."""
    torch.manual_seed(rows)
    model = golden_gpt("tiny").set_precision(dtype).eval().requires_grad_(False)
    cache = KVCache(model.config, rows, 256, dtype, CPU)
    cache.storage.normal_()
    kernel = NativeDecode.create(model, cache, int8=int8)
    assert kernel is not None
    positions = torch.randint(20, 200, (rows,))
    state = (torch.randint(0, 1024, (rows,)), positions, torch.randint(1, 20, (rows,)))
    return model, cache, kernel, state


@needs_compiler
@pytest.mark.golden
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8, 11])
def test_kernel_equals_model_in_float32(rows):
    model, cache, kernel, state = kernel_and_state(torch.float32, rows)
    length = int(state[1].max()) + 1
    expected = model.decode(*state, cache.window(0, rows, length))
    written = cache.storage.clone()
    torch.testing.assert_close(kernel(*state, length), expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(cache.storage, written, atol=1e-5, rtol=1e-5)


@needs_compiler
@pytest.mark.golden
@pytest.mark.parametrize(("int8", "allowed"), [(False, 0.02), (True, 0.04)])
def test_kernel_in_reduced_precision_stays_near_float32(int8, allowed):
    model, cache, kernel, state = kernel_and_state(torch.bfloat16, 6, int8)
    length = int(state[1].max()) + 1
    ours = kernel(*state, length).clone()
    exact = [(k.float(), v.float()) for k, v in cache.window(0, 6, length)]
    expected = golden_gpt("tiny").decode(*state, exact)
    error = (ours - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt()
    assert 0 < error < allowed


@needs_compiler
@pytest.mark.golden
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_decodes_bit_by_bit_the_same_in_any_company(dtype):
    _, cache, kernel, state = kernel_and_state(dtype, 13)
    tokens, positions, text_lengths = state
    together = kernel(*state, 256).clone()
    for rows in (1, 2, 3, 4, 6, 9):
        fewer = kernel(tokens[:rows], positions[:rows], text_lengths[:rows], 201)
        assert torch.equal(fewer, together[:rows])


@needs_compiler
def test_attention_survives_large_scores_and_long_rows():
    _, cache, kernel, state = kernel_and_state(torch.float32, 2)
    cache.storage.mul_(300)
    positions = torch.tensor([0, 255])
    assert kernel(state[0], positions, torch.zeros(2, dtype=torch.int64), 256).isfinite().all()


@needs_compiler
@pytest.mark.golden
def test_what_lies_beyond_a_row_is_not_even_read():
    model, cache, kernel, state = kernel_and_state(torch.float32, 2)
    expected = kernel(*state, 256).clone()
    for row, position in enumerate(state[1].tolist()):
        cache.storage[row, :, position:] = torch.nan
    assert torch.equal(kernel(*state, 256), expected)


@needs_compiler
@pytest.mark.golden
def test_the_number_of_threads_is_chosen_by_trial_and_changes_nothing(monkeypatch):
    _, cache, kernel, state = kernel_and_state(torch.float32, 8)
    expected = kernel(*state, 256).clone()
    content = cache.storage.clone()
    kernel._most_threads = 2
    costs = {1: {1: 1.0, 2: 1.0}, 2: {1: 0.9, 2: 0.8}}  # by threads and rows

    def pretend(tokens: torch.Tensor, *_: torch.Tensor) -> float:
        rows = len(tokens)
        return costs[kernel._threads_for(rows)][rows]

    monkeypatch.setattr(kernel, "_time", pretend)
    kernel.tune()
    assert [kernel._threads_for(rows) for rows in (1, 2, 3, 8)] == [1, 2, 2, 2]
    cache.storage.copy_(content)
    assert torch.equal(kernel(*state, 256), expected)


@needs_compiler
def test_numbers_out_of_range_are_refused_before_anything_is_written():
    _, cache, kernel, state = kernel_and_state(torch.float32, 2)
    before = cache.storage.clone()
    for column, wrong in ((0, 1025), (0, -1), (1, 256), (1, -1), (2, 250)):
        bad = [tensor.clone() for tensor in state]
        bad[column][1] = wrong
        with pytest.raises(IndexError, match="out of range"):
            kernel(*bad, 256)
    assert torch.equal(cache.storage, before)


def test_rounding_to_int8_is_close_and_keeps_zero_rows():
    weight = torch.randn(7, 64)
    weight[3] = 0
    rounded, scale = quantize(weight)
    assert rounded.dtype == torch.int8
    error = (rounded * scale[:, None] - weight).abs().amax(dim=1)
    assert (error <= weight.abs().amax(dim=1) / 254 + 1e-7).all()


def test_shapes_the_kernel_does_not_know_run_in_torch():
    cache = KVCache(KnownGPT().config, 1, 256, torch.float32, CPU)
    assert NativeDecode.create(KnownGPT(), cache) is None
    with pytest.raises(ConfigurationError, match="int8 needs a CPU and a C compiler"):
        Engine(golden_gpt("tiny"), dtype=torch.int8, slots=1, kernel=False)


def test_a_machine_without_a_compiler_is_served_too(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    assert build.load_kernel("gpt_decode", tmp_path) is None
    monkeypatch.setattr(build.shutil, "which", lambda name: "/bin/false")
    assert build.load_kernel("gpt_decode", tmp_path) is None
    assert "can't be compiled" in caplog.text
    assert list(tmp_path.iterdir()) == []  # nothing half is left


def test_a_cleared_row_is_zero_and_a_moved_row_is_the_same():
    cache = KVCache(golden_config("tiny"), 3, 300, torch.bfloat16, CPU)
    assert cache.max_length == 512
    assert not cache.storage.any()
    cache.storage.normal_()
    kept = cache.storage[[0, 2]].clone()
    cache.clear(1, 300)
    assert not cache.storage[1].any()
    assert torch.equal(cache.storage[[0, 2]], kept)
    cache.move(2, 1, 100)
    assert torch.equal(cache.storage[1, :, :100], kept[1, :, :100])
    assert not cache.storage[1, :, 100:].any()
