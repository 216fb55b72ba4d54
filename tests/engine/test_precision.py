"""Reduced precision against float32: greedy tokens under teacher forcing on the golden prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden import has_case, load_case
from gpt_models import GREEDY, case_request, golden_gpt

from gsv.engine.gpt.model_runner import ModelRunner
from gsv.engine.gpt.sequence import Sequence, SequenceRequest
from gsv.engine.kernels.cpu.build import load_kernel

STEPS = 100

sizes = pytest.mark.parametrize(
    "size",
    [
        "tiny",
        pytest.param(
            "full",
            marks=[
                pytest.mark.full,
                pytest.mark.skipif(not has_case("full_t2s_greedy"), reason="no full-size cases"),
            ],
        ),
    ],
)


def greedy_tokens(
    runner: ModelRunner, request: SequenceRequest, teacher: list[int] | None = None
) -> list[int]:
    """The most likely token of each step, where every step has read the teacher's tokens."""
    sequence = Sequence(request, lambda *_: None, lambda *_: None)
    drawn = runner.prefill([sequence], 0).read()[0]
    tokens = []
    prompt = torch.from_numpy(request.prompt_tokens.astype(np.int64))
    while True:
        tokens.append(drawn.token)
        sequence.tokens.append(drawn.token if teacher is None else teacher[len(tokens) - 1])
        if len(tokens) == STEPS:
            return tokens
        runner._state.tokens[0] = sequence.tokens[-1]
        runner._state.seen[0] = False
        runner._state.seen[0, torch.cat([prompt, torch.tensor(sequence.tokens)])] = True
        drawn = runner.decode([sequence]).read()[0]


@pytest.mark.golden
@sizes
@pytest.mark.parametrize(
    ("dtype", "kernel", "share"),
    [
        (torch.bfloat16, True, 0.98),
        (torch.bfloat16, False, 0.98),
        (torch.int8, True, 0.95),
    ],
    ids=["bfloat16-kernel", "bfloat16-torch", "int8"],
)
def test_greedy_tokens_agree_with_float32(size, dtype, kernel, share):
    if kernel and load_kernel("gpt_decode") is None:
        pytest.skip("no C compiler here")
    case = load_case(f"{size}_t2s_greedy")
    requests = [case_request(case, row, **GREEDY, max_tokens=STEPS) for row in "ab"]
    cpu = torch.device("cpu")
    exact = ModelRunner(golden_gpt(size), cpu, torch.float32, 1, 512)
    teachers = [greedy_tokens(exact, request) for request in requests]
    reduced = ModelRunner(golden_gpt(size), cpu, dtype, 1, 512, kernel=kernel)
    agreeing = sum(
        ours == theirs
        for request, teacher in zip(requests, teachers, strict=True)
        for ours, theirs in zip(greedy_tokens(reduced, request, teacher), teacher, strict=True)
    )
    assert agreeing >= share * 2 * STEPS, f"{agreeing} of {2 * STEPS} steps agree"
