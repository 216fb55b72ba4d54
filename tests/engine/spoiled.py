"""A model of known logits whose sentences go bad at one step, or don't, as the noise decides."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from gsv.config import GPTConfig
from gsv.engine.gpt.judge import NORMAL_STREAK, Limits
from gsv.engine.gpt.sequence import SamplingParams, SequenceRequest
from gsv.models.gpt import Cache

EOS = 64
SILENT = 2
GOOD, BAD = 0, 1  # tokens, the choice at the step where a sentence may go bad
WHOLE = 100  # tokens of a good sentence
_SCRIPT = np.random.default_rng(5).integers(3, EOS, 2000).tolist()

# Kinds of trouble, each a phoneme.
LOOPS = {f"loop of {period}": period for period in range(1, 9)}
KINDS = [*LOOPS, "silence", "early end", "endless", "none", "loop of 30"]
# Silence that, when as much of it has left as speech may have, goes on or ends by the noise.
PAUSE = "pause"
_ALL = [*KINDS, PAUSE]


def limits() -> Limits:
    return Limits(
        fewest=60, expected=100, most=180, run=25, loop=24, silence=40, silent=frozenset([SILENT])
    )


def spoiled_request(
    kind: str, at: int = 0, *, always: bool = False, seed: int = 1, sentence: int = 0, **more: int
) -> SequenceRequest:
    """A sentence that may go bad at step ``at``: with an even chance, or ``always``."""
    phonemes = np.array([_ALL.index(kind) + 1, at + 1, 1 + always], np.int32)
    return SequenceRequest(
        phonemes=phonemes,
        bert=np.zeros((3, 2), np.float32),
        prompt_tokens=np.zeros(0, np.int32),
        params=SamplingParams(seed=seed, max_tokens=400, repetition_penalty=1.0),
        sentence=sentence,
        **more,
    )


class SpoiledGPT(nn.Module):
    """Each next token is certain but at one step, where a good and a bad one are as likely."""

    def __init__(self) -> None:
        super().__init__()
        self.config = GPTConfig(
            hidden_dim=4, heads=1, layers=1, vocabulary=EOS + 1, phonemes=500, eos=EOS, bert_dim=2
        )
        self.head = nn.Linear(1, 1)  # tells the device

    def set_precision(self, dtype: torch.dtype) -> SpoiledGPT:
        return self

    def embed_prompt(self, phonemes: Tensor, bert: Tensor, tokens: Tensor) -> Tensor:
        return torch.cat([phonemes, tokens]).float()[:, None].expand(-1, 4)

    def prefill(self, x: Tensor, text_lengths: Tensor, lengths: Tensor, cache: Cache) -> Tensor:
        cache[0][0][:] = x[:, :, None]
        return self._logits(lengths, cache)

    def decode(
        self, tokens: Tensor, positions: Tensor, text_lengths: Tensor, cache: Cache
    ) -> Tensor:
        rows = torch.arange(len(tokens))
        cache[0][0][rows, positions] = tokens.float()[:, None, None]
        return self._logits(positions + 1, cache)

    def attention_weights(self, x: Tensor, text_length: int, first: int) -> Iterator[Tensor]:
        """One head that looks at the phonemes one after another, at each for as long."""
        tokens = x.shape[1] - first
        looks = torch.arange(tokens) * text_length // tokens
        yield nn.functional.one_hot(looks, text_length).float()[None]

    def _logits(self, lengths: Tensor, cache: Cache) -> Tensor:
        logits = torch.full((len(lengths), EOS + 1), -50.0)
        for row, length in enumerate(lengths.tolist()):
            read = cache[0][0][row, :length, 0, 0].long().tolist()
            for token in following(read[:3], read[3:]):
                logits[row, token] = 10.0
        return logits


def following(phonemes: list[int], tokens: list[int]) -> list[int]:
    """The tokens that may come next."""
    kind, at, always = _ALL[phonemes[0] - 1], phonemes[1] - 1, phonemes[2] == 2
    step = len(tokens)
    if step == at:
        return [BAD] if always else [GOOD, BAD]
    if kind != "none" and step > at and tokens[at] == BAD:
        since = step - at - 1
        if kind.startswith("loop"):
            return [_SCRIPT[500 + since % int(kind.split()[-1])]]
        if kind == "silence":
            return [SILENT]
        if kind == PAUSE:
            return _pause(since, tokens[at + 1 :])
        if kind == "early end":
            return [EOS]
        return [_SCRIPT[500 + since]]
    return [EOS] if step >= WHOLE else [_SCRIPT[step]]


def _pause(since: int, tokens: list[int]) -> list[int]:
    """What may follow after so many tokens of trouble."""
    if since == NORMAL_STREAK:
        return [SILENT, _SCRIPT[700]]
    if since < NORMAL_STREAK or tokens[NORMAL_STREAK] == SILENT:
        return [SILENT]
    return [EOS] if since >= WHOLE // 2 else [_SCRIPT[700 + since]]
