"""The sampler against upstream's probabilities, and each rule by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden import load_case

from gsv.engine.gpt.sampling import SamplingTensors, draw, penalise, probabilities
from gsv.engine.gpt.sequence import SamplingParams
from gsv.engine.noise import exponential_steps

CPU = torch.device("cpu")


def controls(*rows: dict[str, float]) -> SamplingTensors:
    return SamplingTensors.of([SamplingParams(**{"seed": 0, **row}) for row in rows])


def seen_of(previous: np.ndarray, vocabulary: int) -> torch.Tensor:
    seen = torch.zeros(len(previous), vocabulary, dtype=torch.bool)
    return seen.scatter_(1, torch.from_numpy(previous), True)


def grid_params(row: np.ndarray) -> dict[str, float]:
    top_k, top_p, temperature, penalty = row.tolist()
    return {
        "top_k": int(top_k),
        "top_p": top_p,
        "temperature": temperature,
        "repetition_penalty": penalty,
    }


@pytest.mark.golden
def test_probabilities_on_the_grid():
    case = load_case("tiny_sampling")
    logits = case.tensor("logits")
    seen = seen_of(case.inputs["previous_tokens"], logits.shape[1])
    for row, expected in zip(case.inputs["grid"], case.outputs["probs"], strict=True):
        settings = controls(grid_params(row), grid_params(row))
        ours = probabilities(penalise(logits, seen, settings.penalty), settings).numpy()
        np.testing.assert_array_equal(ours > 0, expected > 0, err_msg=str(row))
        np.testing.assert_allclose(ours, expected, atol=2e-6, err_msg=str(row))


@pytest.mark.golden
def test_a_batch_of_different_settings_equals_each_alone():
    case = load_case("tiny_sampling")
    grid = [grid_params(row) for row in case.inputs["grid"]]
    logits = case.tensor("logits")[:1].expand(len(grid), -1)
    seen = seen_of(case.inputs["previous_tokens"][:1], logits.shape[1]).expand(len(grid), -1)
    settings = controls(*grid)
    ours = probabilities(penalise(logits, seen, settings.penalty), settings).numpy()
    expected = case.outputs["probs"][:, 0]
    np.testing.assert_array_equal(ours > 0, expected > 0)
    np.testing.assert_allclose(ours, expected, atol=2e-6)


@pytest.mark.golden
def test_ties_with_the_kth_stay():
    case = load_case("tiny_sampling")
    for top_k, expected in zip((1, 5, 15), case.outputs["tie_probs"], strict=True):
        ours = probabilities(
            case.tensor("tie_logits"), controls({"top_k": top_k}, {"top_k": top_k})
        )
        np.testing.assert_array_equal(ours.numpy() > 0, expected > 0)
        np.testing.assert_allclose(ours.numpy(), expected, atol=2e-6)


@pytest.mark.golden
def test_penalty_is_what_the_end_test_sees():
    case = load_case("tiny_sampling")
    logits = case.tensor("logits")
    seen = seen_of(case.inputs["previous_tokens"], logits.shape[1])
    ours = penalise(logits, seen, torch.full((2,), 1.35))
    np.testing.assert_allclose(ours.numpy(), case.outputs["mutated_logits"], rtol=1e-6)


@pytest.mark.golden
def test_temperature_zero_is_clamped():
    case = load_case("tiny_sampling")
    logits = case.tensor("logits")
    seen = seen_of(case.inputs["previous_tokens"], logits.shape[1])
    for top_k in (5, 15, 1025):  # at this temperature one token is left, whatever top-k says
        settings = controls(*[{"top_k": top_k, "temperature": 0.0}] * 2)
        ours = probabilities(penalise(logits, seen, settings.penalty), settings)
        np.testing.assert_allclose(ours.numpy(), case.outputs["probs_temp0"], atol=2e-6)


def one_draw(logits: list[float], *, barred: bool = False, seen: int | None = None, **params):
    row = torch.tensor([logits])
    marks = torch.zeros_like(row, dtype=torch.bool)
    if seen is not None:
        marks[0, seen] = True
    noise = torch.ones_like(row)
    eos = len(logits) - 1
    return draw(row, marks, torch.tensor([barred]), noise, controls(params), eos)


def test_barred_eos_neither_is_drawn_nor_ends():
    drawn = one_draw([1.0, 2.0, 9.0], barred=True)
    assert (drawn.tokens.item(), drawn.ended.item()) == (1, False)
    drawn = one_draw([1.0, 2.0, 9.0])
    assert (drawn.tokens.item(), drawn.ended.item()) == (2, True)


def test_argmax_at_eos_ends_although_another_token_is_drawn():
    logits = torch.tensor([[1.0, 2.0, 2.1]])
    noise = torch.tensor([[1.0, 1.0, 1e30]])
    none = torch.zeros_like(logits, dtype=torch.bool)
    drawn = draw(logits, none, torch.tensor([False]), noise, controls({}), eos=2)
    assert (drawn.tokens.item(), drawn.ended.item()) == (1, True)
    # The test sees the penalty: a prompt can't hold EOS, but other tokens move below it.
    drawn = one_draw([4.0, 3.5, 3.3], seen=0, repetition_penalty=1.35)
    assert (drawn.tokens.item(), drawn.ended.item()) == (1, False)


def test_broken_logits_are_reported_for_their_row_only():
    logits = torch.zeros(3, 5)
    logits[1, 2] = torch.nan
    logits[2, 0] = torch.inf
    none = torch.zeros_like(logits, dtype=torch.bool)
    drawn = draw(
        logits, none, torch.zeros(3, dtype=torch.bool), torch.ones(3, 5), controls({}, {}, {}), 4
    )
    assert drawn.healthy.tolist() == [True, False, False]


def test_tokens_follow_their_probabilities():
    # 20,000 draws of a known distribution: each share within five standard deviations.
    shares = torch.tensor([0.5, 0.25, 0.15, 0.1])
    noise = torch.from_numpy(exponential_steps(3, 0, 0, 20_000, 4))
    tokens = (shares / noise).argmax(dim=1)
    counted = torch.bincount(tokens, minlength=4) / len(tokens)
    assert ((counted - shares).abs() < 5 * (shares * (1 - shares) / len(tokens)).sqrt()).all()
