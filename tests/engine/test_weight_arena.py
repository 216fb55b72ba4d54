"""Matrices on large pages: the same numbers, in one block, for as long as anybody holds them."""

from __future__ import annotations

import pytest
import torch
from gpt_models import golden_gpt

from gsv.engine.gpt.cache import KVCache
from gsv.engine.kernels.cpu.gpt_decode import NativeDecode
from gsv.engine.kernels.cpu.weight_arena import WeightArena


def test_copies_equal_and_outlive_the_arena() -> None:
    matrices = [torch.randn(3, 5), torch.randn(64, 64).bfloat16(), torch.ones(7, 2).to(torch.int8)]
    arena = WeightArena([matrix.nbytes for matrix in matrices])
    copies = [arena.add(matrix) for matrix in matrices]
    del arena
    for copy, matrix in zip(copies, matrices, strict=True):
        assert torch.equal(copy, matrix)
        assert copy.dtype == matrix.dtype
        assert copy.data_ptr() != matrix.data_ptr()
        assert copy.data_ptr() % 4096 == 0


def test_more_than_was_asked_for_is_refused() -> None:
    arena = WeightArena([100])
    arena.add(torch.zeros(1000))  # a page holds it
    with pytest.raises(ValueError, match="of the arena"):
        arena.add(torch.zeros(1))


@pytest.mark.golden
def test_the_model_reads_what_the_kernel_reads() -> None:
    model = golden_gpt("tiny")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cache = KVCache(model.config, 1, 256, torch.float32, torch.device("cpu"))
    kernel = NativeDecode.create(model, cache)
    if kernel is None:
        pytest.skip("no C compiler")
    pointers = [layer.qkv.weight for layer in kernel._layers]
    assert pointers == [layer.attention.qkv.weight.data_ptr() for layer in model.layers]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
