"""Which phoneme each token speaks: told by where the semantic GPT looks.

While the GPT writes a sentence, some of its heads look from every token at the phoneme that is
being spoken. Which heads do is left to training, so that one is taken which looks most along its
own likeliest way through the phonemes that never goes back. On the demo voice, whose teacher's
phone times are known, the borders found so are 10 ms off (median; 90 %: 20 ms). Along the condition
encoder's attention they were 140 to 260 ms off, more than the 107 ms of evenly long phonemes.

Letters in shapes: H heads, T tokens of the sentence, P its phonemes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsv.device import upload
from gsv.models.gpt import SemanticGPT

_FLOOR = 1e-6  # a weight that says nothing
_SKIP_COST = 3.0  # of each phoneme that gets no token, in units of log weight
_SEARCHED_HEADS = 16
_MOST_SKIPPED = 2  # phonemes that are passed over at once; short ones share a token's 40 ms


@dataclasses.dataclass(frozen=True)
class Alignment:
    """A sentence's tokens beside its phonemes.

    Attributes:
        borders: float64 [P + 1], where each phoneme begins and the last one ends, in tokens; they
            never fall.
        path: int64 [T], the phoneme of each token; never falls.
        confidence: mean share of its attention that the chosen head gives the path, 0 to 1.
        looks: int64 [T], the phoneme that the chosen head looks at most, wherever it may be.
    """

    borders: NDArray[np.float64]
    path: NDArray[np.int64]
    confidence: float
    looks: NDArray[np.int64]

    @property
    def passed_over(self) -> int:
        """Phonemes without a token of their own."""
        return len(self.borders) - 1 - len(set(self.path.tolist()))

    @property
    def jump_back(self) -> int:
        """The most phonemes by which the head looks back for two tokens or more: a part that may
        be said twice."""
        pairs = np.stack([self.looks[:-1], self.looks[1:]])  # [2, T - 1]
        if not pairs.size:
            return 0
        reached = np.maximum.accumulate(pairs.min(axis=0))
        return max(0, int((reached - pairs.max(axis=0)).max()))


@torch.inference_mode()
def align_sentence(
    model: SemanticGPT,
    phonemes: NDArray[np.int32],
    bert: NDArray[np.float32],
    prompt_tokens: NDArray[np.int32],
    tokens: NDArray[np.int32],
    own: int,
    *,
    ended: bool = True,
) -> Alignment:
    """Read a sentence once more and see where the heads look; costs as much as reading a prompt.

    Args:
        model: that has written the tokens, on its device. Nothing of it is changed, so other
            threads may use it meanwhile.
        phonemes: int32 [p], the prompt's and then the sentence's own.
        bert: float32 [p, 1024].
        prompt_tokens: int32 [t].
        tokens: int32 [T], at least one.
        own: P, how many of the phonemes, the last ones, are the sentence's.
        ended: the tokens are all of the sentence; otherwise it may be anywhere.
    """
    device = model.head.weight.device
    first = len(phonemes) + len(prompt_tokens)
    x = model.embed_prompt(
        upload(phonemes.astype(np.int64), device),
        upload(bert.astype(np.float32), device),
        upload(np.concatenate([prompt_tokens, tokens]).astype(np.int64), device),
    )
    looks = _sharpest_heads(
        weights[:, :, len(phonemes) - own :].float()
        # Layer by layer: all heads' weights of a long sentence would be a gigabyte.
        for weights in model.attention_weights(x[None], len(phonemes), first)
    )
    paths = likeliest_paths(looks, ended=ended)
    along = np.take_along_axis(looks, paths[:, :, None], axis=2)[:, :, 0]
    head = int(np.log(along + _FLOOR).mean(axis=1).argmax())
    path = paths[head]
    return Alignment(
        phoneme_borders(path, own), path, float(along[head].mean()), looks[head].argmax(axis=1)
    )


def _sharpest_heads(layers: Iterable[Tensor]) -> NDArray[np.float32]:
    """The heads of all layers whose tokens look most at one phoneme each, [up to 16, T, P].

    No way through the phonemes is looked along more than the places that each token looks at most,
    so the head that follows the sentence is among them. The search for ways is a loop over tokens
    in Python, beside which the engine decodes more slowly; it is done once for all of these heads.
    """
    kept: Tensor | None = None
    for looks in layers:
        kept = looks if kept is None else torch.cat([kept, looks])
        bounds = (kept.amax(dim=2) + _FLOOR).log().mean(dim=1)
        kept = kept[bounds.topk(min(_SEARCHED_HEADS, len(kept))).indices]
    assert kept is not None
    return kept.cpu().numpy()


def likeliest_paths(weights: NDArray[np.floating[Any]], *, ended: bool = True) -> NDArray[np.int64]:
    """The likeliest monotonic way of each head.

    Args:
        weights: [H, T, P], how much each token looks at each phoneme.
        ended: the ways end at the last phonemes; otherwise where they like.

    Returns:
        int64 [H, T], the phoneme of each token; never falls, begins at the first phonemes.
    """
    heads, tokens, phonemes = weights.shape
    clean = np.maximum(weights.astype(np.float64), _FLOOR)
    # What every token looks at says nothing about where this one is.
    scores = np.log(clean) - np.log(clean.mean(axis=1, keepdims=True))
    # With more phonemes than these steps reach, as long ones as it takes.
    most = min(max(_MOST_SKIPPED + 1, -(-phonemes // tokens) + 1), phonemes)
    costs = _SKIP_COST * np.maximum(np.arange(most + 1) - 1, 0)  # of steps of 0 to ``most``
    best = np.full((heads, phonemes), -np.inf)
    best[:, :most] = scores[:, 0, :most] - costs[1:]
    came = np.zeros((tokens, heads, phonemes), np.int16)
    options = np.full((most + 1, heads, phonemes), -np.inf)
    for token in range(1, tokens):
        for step in range(min(most, phonemes - 1) + 1):
            options[step, :, step:] = best[:, : phonemes - step] - costs[step]
        came[token] = options.argmax(axis=0)
        best = options.max(axis=0) + scores[:, token]
    if ended:
        left = phonemes - 1 - np.arange(phonemes)  # phonemes after this one
        best = best - np.where(left < most, _SKIP_COST * left, np.inf)
    place = best.argmax(axis=1)
    paths = np.zeros((heads, tokens), np.int64)
    rows = np.arange(heads)
    for token in range(tokens - 1, -1, -1):
        paths[:, token] = place
        place = place - came[token, rows, place]
    return paths


def phoneme_borders(path: NDArray[np.int64], phonemes: int) -> NDArray[np.float64]:
    """Where each phoneme begins and the last one ends, in tokens.

    Phonemes without a token of their own share one with the phoneme that follows them, or, at the
    end, with the one before.

    Args:
        path: int64 [T], the phoneme of each token.
        phonemes: P.

    Returns:
        float64 [P + 1]; never falls, from 0 to T.
    """
    known, first = np.unique(path, return_index=True)
    begins = first.astype(np.float64)
    borders = np.full(phonemes + 1, float(len(path)))
    before = -1
    for phoneme, begin in zip(known.tolist(), begins.tolist(), strict=True):
        count = phoneme - before
        borders[before + 1 : phoneme + 1] = begin + np.arange(count) / count
        before = phoneme
    if before + 1 < phonemes:
        last, count = float(borders[before]), phonemes - before
        length = len(path) - last
        borders[before + 1 : phonemes] = last + length * np.arange(1, count) / count
    return borders
