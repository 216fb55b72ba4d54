"""Semantic GPTs for tests: the golden cases' random weights, and one whose logits are known."""

from __future__ import annotations

import functools

import numpy as np
import torch
from golden import Case, case_weights, manifest
from numpy.typing import NDArray
from torch import Tensor, nn

from gsv.checkpoints.names.gpt import rename
from gsv.config import GPTConfig
from gsv.engine.gpt.sequence import SamplingParams, SequenceRequest
from gsv.engine.turns import WHOLE_ANSWER
from gsv.models.gpt import Cache, SemanticGPT
from gsv.models.layers import Linear

GREEDY = {"top_k": 1, "top_p": 1.0, "temperature": 1.0, "repetition_penalty": 1.35}


@functools.lru_cache(maxsize=1)
def golden_config(size: str) -> GPTConfig:
    """Shape of a manifest's GPT."""
    model = manifest("s1v3", size)["config"]["model"]
    return GPTConfig(
        hidden_dim=model["hidden_dim"],
        heads=model["head"],
        layers=model["n_layer"],
        vocabulary=model["vocab_size"],
        phonemes=model["phoneme_vocab_size"],
        eos=model["EOS"],
    )


def golden_gpt(size: str) -> SemanticGPT:
    """A fresh model with the folder's weights, through the real table of names."""
    model = SemanticGPT(golden_config(size))
    weights = {rename(key): value.clone() for key, value in case_weights("s1", size).items()}
    model.load_state_dict(weights, strict=True)
    return model


def with_eos_bias(model: SemanticGPT, bias: float) -> SemanticGPT:
    """Add a constant to the logit of EOS, as the t2s_eos cases do."""

    head = Linear(model.config.hidden_dim, model.config.vocabulary)
    head.weight = model.head.weight
    head.bias = nn.Parameter(torch.zeros(model.config.vocabulary))
    head.bias.data[model.config.eos] = bias
    model.head = head
    return model


def case_request(case: Case, row: str, **params: object) -> SequenceRequest:
    """Row ``a`` or ``b`` of a t2s case as a request."""
    inputs = case.inputs
    phonemes = np.concatenate([inputs["phones_prompt"], inputs[f"phones_{row}"]])
    bert = np.concatenate([inputs["bert_prompt"], inputs[f"bert_{row}"]], axis=1).T
    return SequenceRequest(
        phonemes=phonemes.astype(np.int32),
        bert=np.ascontiguousarray(bert),
        prompt_tokens=inputs["prompt_semantic"].astype(np.int32),
        params=SamplingParams(**{"seed": 0, **params}),
    )


def random_request(
    rng: np.random.Generator, config: GPTConfig, seed: int, **params: object
) -> SequenceRequest:
    """A request of random length and content."""
    phonemes = rng.integers(0, config.phonemes, rng.integers(3, 60), dtype=np.int32)
    return SequenceRequest(
        phonemes=phonemes,
        bert=rng.standard_normal((len(phonemes), config.bert_dim), dtype=np.float32),
        prompt_tokens=rng.integers(0, config.eos, rng.integers(0, 50), dtype=np.int32),
        params=SamplingParams(seed=seed, **params),
        sentence=int(rng.integers(0, 10)),
    )


class KnownGPT(nn.Module):
    """Logits that a test can work out: each row depends on its own cache alone.

    The cache is used as the real model uses it: each position stores one number derived from the
    row's phonemes and tokens, and the logits are a fixed function of the sum over the row.
    """

    def __init__(self, vocabulary: int = 17, phonemes: int = 50) -> None:
        super().__init__()
        self.config = GPTConfig(
            hidden_dim=4,
            heads=1,
            layers=1,
            vocabulary=vocabulary,
            phonemes=phonemes,
            eos=vocabulary - 1,
            bert_dim=2,
        )
        self.table = torch.randn(97, vocabulary, generator=torch.Generator().manual_seed(5))
        self.batches: list[int] = []  # rows of each decode call, for the tests to look at
        self.poisoned: int | None = None  # a phoneme that makes logits NaN
        self.failing: int | None = None  # a phoneme that makes prefill raise

    def set_precision(self, dtype: torch.dtype) -> KnownGPT:
        return self

    def embed_prompt(self, phonemes: Tensor, bert: Tensor, tokens: Tensor) -> Tensor:
        if self.failing is not None and (phonemes == self.failing).any():
            raise RuntimeError("this prompt can't be embedded")
        numbers = torch.cat([phonemes + 1, 3 * tokens + 2]).float()
        if self.poisoned is not None and (phonemes == self.poisoned).any():
            numbers[0] = torch.nan
        return numbers[:, None].expand(-1, 4)

    def prefill(self, x: Tensor, text_lengths: Tensor, lengths: Tensor, cache: Cache) -> Tensor:
        cache[0][0][:] = x[:, :, None]
        return self._logits(lengths, cache)

    def decode(
        self, tokens: Tensor, positions: Tensor, text_lengths: Tensor, cache: Cache
    ) -> Tensor:
        self.batches.append(len(tokens))
        rows = torch.arange(len(tokens))
        cache[0][0][rows, positions] = (3.0 * tokens + 2)[:, None, None]
        return self._logits(positions + 1, cache)

    def _logits(self, lengths: Tensor, cache: Cache) -> Tensor:
        keys = cache[0][0][:, :, 0, 0]
        visible = torch.arange(keys.shape[1]) < lengths[:, None]
        total = (keys * visible).sum(dim=1)  # 0 times NaN is NaN: sees what it must not see
        rows = self.table[total.nan_to_num().long() % len(self.table)]
        return rows + (total * 0)[:, None]


def known_request(
    phonemes: list[int], tokens: list[int] | None = None, sentence: int = 0, **params: object
) -> SequenceRequest:
    """A request for ``KnownGPT``."""
    ids: NDArray[np.int32] = np.asarray(phonemes, dtype=np.int32)
    chunk_tokens = int(params.pop("chunk_tokens", 0))
    model = str(params.pop("model", ""))
    turn = params.pop("turn", WHOLE_ANSWER)
    return SequenceRequest(
        phonemes=ids,
        bert=np.zeros((len(ids), 2), dtype=np.float32),
        prompt_tokens=np.asarray(tokens or [], dtype=np.int32),
        params=SamplingParams(**{"seed": 1, "max_tokens": 40, **params}),
        sentence=sentence,
        chunk_tokens=chunk_tokens,
        model=model,
        turn=turn,
    )
