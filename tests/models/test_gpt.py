"""The semantic GPT against upstream's arrays: logits, greedy tokens, ends, sampled tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from golden import Case, case_weights, has_case, load_case
from gpt_models import GREEDY, case_request, golden_gpt, with_eos_bias

from gsv.checkpoints.names.gpt import rename
from gsv.engine.gpt.engine import Engine
from gsv.engine.gpt.model_runner import ModelRunner, Noise
from gsv.engine.gpt.scheduler import Scheduler
from gsv.engine.gpt.sequence import Sequence, SequenceRequest
from gsv.engine.kernels.cpu.build import load_kernel
from gsv.engine.noise import exponential_steps
from gsv.models.gpt import SemanticGPT

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
golden = pytest.mark.golden


@pytest.fixture(params=[False, True], ids=["torch", "kernel"])
def run(request) -> Callable[..., list[list[int]]]:
    """``run_together`` through PyTorch and through the compiled kernel."""
    if request.param and load_kernel("gpt_decode") is None:
        pytest.skip("no C compiler here")
    return functools.partial(run_together, kernel=request.param)


def run_together(
    model: SemanticGPT,
    requests: list[SequenceRequest],
    noise: Noise = exponential_steps,
    kernel: bool = True,
) -> list[list[int]]:
    """Tokens of all requests, run together from the first step to the last."""
    cpu, count = torch.device("cpu"), len(requests)
    runner = ModelRunner(model, cpu, torch.float32, count, 512, noise, kernel)
    scheduler = Scheduler(count, waiting_limit=0, prefill_limit=count)
    everybody = [Sequence(request, ignore, ignore) for request in requests]
    for sequence in everybody:
        scheduler.add(sequence)
    drawn = runner.prefill(scheduler.admit().sequences, 0).read()
    while scheduler.running:
        for sequence, one in zip(scheduler.running, drawn, strict=True):
            sequence.take(one)
        for move in scheduler.retire():
            runner.move(move)
        if scheduler.running:
            drawn = runner.decode(scheduler.running).read()
    return [sequence.tokens for sequence in everybody]


def ignore(*_: object) -> None:
    pass


def new_tokens(case: Case, output: str) -> list[int]:
    """What upstream generated: its arrays begin with the prompt's tokens."""
    prompt = load_case(case.name.split("_")[0] + "_t2s_greedy").inputs["prompt_semantic"]
    assert case.outputs[output][: len(prompt)].tolist() == prompt.tolist()
    tokens: list[int] = case.outputs[output][len(prompt) :].tolist()
    return tokens


@golden
@sizes
def test_first_logits(size, run):
    case, model = load_case(f"{size}_t2s_greedy"), golden_gpt(size)
    logits = {}
    inner = model.prefill
    model.prefill = lambda *args: logits.setdefault("all", inner(*args))
    requests = [case_request(case, row, **GREEDY, max_tokens=1) for row in "ab"]
    run(model, requests)
    for row, one in zip("ab", logits["all"], strict=True):
        case.check(f"logits_batch_{row}", one)
    for row, request in zip("ab", requests, strict=True):
        logits.clear()
        run(model, [request])
        case.check(f"logits_{row}", logits["all"][0])


@golden
@sizes
def test_greedy_tokens(size, run):
    case, model = load_case(f"{size}_t2s_greedy"), golden_gpt(size)
    # Upstream's single decoder keeps n + 1 tokens at its early stop (Q14), its batched one n.
    alone = [run(model, [case_request(case, row, **GREEDY, max_tokens=61)])[0] for row in "ab"]
    assert alone == [new_tokens(case, "naive60_y_a"), new_tokens(case, "naive60_y_b")]
    together = run(model, [case_request(case, row, **GREEDY, max_tokens=60) for row in "ab"])
    assert together == [new_tokens(case, "batch60_y_a"), new_tokens(case, "batch60_y_b")]


@golden
@sizes
def test_eos_waits_for_the_twelfth_step(size, run):
    greedy, case = load_case(f"{size}_t2s_greedy"), load_case(f"{size}_t2s_eos")
    model = with_eos_bias(golden_gpt(size), float(case.inputs["bias_big"]))
    requests = [case_request(greedy, row, **GREEDY) for row in "ab"]
    expected = [new_tokens(case, f"bias_batch_y_{row}") for row in "ab"]
    assert run(model, requests) == expected
    assert run(model, requests[:1]) == [new_tokens(case, "bias_y_a")]
    assert [len(tokens) for tokens in expected] == [11, 11]


@golden
@sizes
def test_argmax_at_eos_ends_a_row(size, run):
    greedy, case = load_case(f"{size}_t2s_greedy"), load_case(f"{size}_t2s_eos")
    model = with_eos_bias(golden_gpt(size), float(case.inputs["bias_argmax"]))
    recorded = case.inputs["exp_noise"].copy()
    recorded[:, model.config.eos] = 1e30  # EOS itself is never drawn
    request = case_request(
        greedy, "a", top_k=1025, temperature=1.0, repetition_penalty=1.35, max_tokens=39
    )
    tokens = run(model, [request], lambda seed, sentence, step, *_: recorded[step : step + 1])
    assert tokens == [new_tokens(case, "argmax_y_a")]


@golden
@sizes
def test_sampled_tokens(size, run):
    greedy, case = load_case(f"{size}_t2s_greedy"), load_case(f"{size}_t2s_eos")
    recorded = case.inputs["exp_noise"]
    request = case_request(
        greedy, "b", top_k=15, top_p=0.9, temperature=0.8, repetition_penalty=1.35, max_tokens=39
    )
    tokens = run(
        golden_gpt(size), [request], lambda seed, sentence, step, *_: recorded[step : step + 1]
    )
    assert tokens == [new_tokens(case, "sampled_y_b")]


@golden
@sizes
def test_rows_end_at_different_steps(size, run):
    greedy, case = load_case(f"{size}_t2s_greedy"), load_case(f"{size}_t2s_eos")
    if float(case.inputs["bias_diff"]) < 0:
        pytest.skip("this folder's case has no such rows")
    model = with_eos_bias(golden_gpt(size), float(case.inputs["bias_diff"]))
    requests = [case_request(greedy, row, **GREEDY, max_tokens=81) for row in "ab"]
    expected = [new_tokens(case, f"diff_batch_y_{row}") for row in "ab"]
    assert run(model, requests) == expected
    engine = Engine(model, slots=2, max_length=512)
    engine.start()
    try:
        assert [engine.generate(request).tolist() for request in requests] == expected
    finally:
        engine.stop()


def test_every_name_of_the_file_is_known():
    weights = case_weights("s1", "tiny")
    assert {rename(key) for key in weights} == set(golden_gpt("tiny").state_dict())
    with pytest.raises(KeyError):
        rename("model.h.layers.0.self_attn.rotary")
    with pytest.raises(KeyError):
        rename("model.gpt")


def test_reduced_precision_keeps_norms_and_positions_in_float32():
    model = golden_gpt("tiny").set_precision(torch.bfloat16)
    kept = {name for name, value in model.state_dict().items() if value.dtype == torch.float32}
    assert kept == {
        name
        for name in model.state_dict()
        if "norm" in name or "embedding" in name or "alpha" in name
    }
    assert model.position_table.dtype == torch.float32
    assert model.precision == torch.bfloat16


def test_text_sees_no_audio_and_audio_no_future():
    model = golden_gpt("tiny").eval()
    rng = np.random.default_rng(0)
    phonemes = torch.from_numpy(rng.integers(0, 732, 9))
    tokens = torch.from_numpy(rng.integers(0, 1024, 7))
    bert = torch.zeros(9, 1024)

    def keys_of(tokens: torch.Tensor) -> torch.Tensor:
        x = model.embed_prompt(phonemes, bert, tokens)[None]
        cache = [(torch.zeros(1, 16, 4, 16), torch.zeros(1, 16, 4, 16)) for _ in range(2)]
        model.prefill(x, torch.tensor([9]), torch.tensor([16]), cache)
        return cache[1][0][0]  # keys of the second layer show what the first one saw

    with torch.inference_mode():
        one, other = keys_of(tokens), keys_of(torch.cat([tokens[:-1], tokens[-1:] ^ 1]))
    assert torch.equal(one[:15], other[:15])
    assert not torch.equal(one[15], other[15])
