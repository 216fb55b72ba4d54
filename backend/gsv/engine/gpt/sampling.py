"""How a token is drawn from logits: acoustic_v4 section 5, batched with each row's own settings.

The order is upstream's and must stay, for it is heard: EOS barred in the first steps, repetition
penalty, top-p on the untempered logits, temperature, top-k, softmax, argmax(p / q), q ~ Exp(1).
Rows never meet: each one's token depends on its own logits, settings and noise only.

Letters in shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from gsv.engine.gpt.sequence import SamplingParams

MIN_TEMPERATURE = 1e-5  # as upstream, against a division by zero


@dataclasses.dataclass(frozen=True)
class SamplingTensors:
    """The sampling settings of a batch, one value a row."""

    top_k: Tensor  # int64 [B]
    top_p: Tensor  # float32 [B]
    temperature: Tensor  # float32 [B]
    penalty: Tensor  # float32 [B]
    largest_k: int
    nucleus: bool  # whether any row has top_p < 1, which costs a sort

    @classmethod
    def of(cls, params: Sequence[SamplingParams]) -> SamplingTensors:
        """Gather the settings of the rows in order, on the CPU."""
        return cls(
            top_k=torch.tensor([p.top_k for p in params], dtype=torch.int64),
            top_p=torch.tensor([p.top_p for p in params]),
            temperature=torch.tensor([p.temperature for p in params]),
            penalty=torch.tensor([p.repetition_penalty for p in params]),
            largest_k=max(p.top_k for p in params),
            nucleus=any(p.top_p < 1 for p in params),
        )


@dataclasses.dataclass(frozen=True)
class Draw:
    """The outcome of one step."""

    tokens: Tensor  # int64 [B]
    ended: Tensor  # bool [B], the row is over and this step's token is dropped
    healthy: Tensor  # bool [B], all of the row's logits were finite


def draw(
    logits: Tensor,
    seen: Tensor,
    eos_barred: Tensor,
    noise: Tensor,
    controls: SamplingTensors,
    eos: int,
) -> Draw:
    """Draw the next token of each row.

    Args:
        logits: float32 [B, V].
        seen: bool [B, V], tokens that occur in the prompt or were drawn before.
        eos_barred: bool [B], rows whose step is among the first eleven.
        noise: float32 [B, V], Exp(1).
        controls: settings.
        eos: the token that ends a row.
    """
    healthy = logits.isfinite().all(dim=-1)
    # A barred EOS has probability 0, which equals upstream's cutting of the column.
    is_eos = torch.arange(logits.shape[-1], device=logits.device) == eos
    logits = logits.masked_fill(eos_barred[:, None] & is_eos, -torch.inf)
    logits = penalise(logits, seen, controls.penalty)
    tokens = (probabilities(logits, controls) / noise).argmax(dim=-1)
    # as upstream t2s_model.py: the argmax before top-p, temperature and top-k ends a row as well
    ended = (tokens == eos) | (logits.argmax(dim=-1) == eos)
    return Draw(tokens, ended, healthy)


def penalise(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Make every seen token less likely, once each however often it occurred; float32 [B, V]."""
    penalty = penalty[:, None]
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def probabilities(logits: Tensor, controls: SamplingTensors) -> Tensor:
    """Top-p, temperature, top-k and softmax over penalised logits; float32 [B, V]."""
    if controls.nucleus:
        logits = _top_p(logits, controls.top_p[:, None])
    logits = logits / controls.temperature[:, None].clamp(min=MIN_TEMPERATURE)
    vocabulary = logits.shape[-1]
    best = logits.topk(min(controls.largest_k, vocabulary), dim=-1).values
    kth = best.gather(1, controls.top_k.clamp(max=vocabulary)[:, None] - 1)
    return logits.masked_fill(logits < kth, -torch.inf).softmax(dim=-1)  # ties with the k-th stay


def _top_p(logits: Tensor, top_p: Tensor) -> Tensor:
    ordered, order = logits.sort(dim=-1, descending=True)
    # Upstream drops the token that crosses the threshold, where the usual rule keeps it.
    dropped = ordered.softmax(dim=-1).cumsum(dim=-1) > top_p
    dropped[:, 0] = False
    dropped &= top_p < 1  # a sum that rounds to above 1 must not drop anything
    return logits.masked_fill(dropped.scatter(1, order, dropped), -torch.inf)
