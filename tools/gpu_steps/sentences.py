"""Sentences for the GPT's engine, and when their tokens came."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gsv.config import GPTConfig
from gsv.engine.gpt.engine import Engine
from gsv.engine.gpt.sequence import SamplingParams, SequenceRequest

LIMIT_SECONDS = 120.0


def sentence(
    config: GPTConfig, seed: int, tokens: int, phonemes: int = 100, prompt_tokens: int = 150
) -> SequenceRequest:
    """A random sentence of ``tokens`` tokens, delivered one by one.

    Args:
        config: of the GPT.
        seed: of content and sampling.
        tokens: after which it ends.
        phonemes: the prompt's and its own.
        prompt_tokens: of the reference; 150 are six seconds.
    """
    rng = np.random.default_rng(seed)
    return SequenceRequest(
        phonemes=rng.integers(0, config.phonemes, phonemes, dtype=np.int32),
        bert=rng.standard_normal((phonemes, config.bert_dim), dtype=np.float32),
        prompt_tokens=rng.integers(0, config.eos, prompt_tokens, dtype=np.int32),
        params=SamplingParams(seed=seed, max_tokens=tokens),
        chunk_tokens=1,
    )


@dataclasses.dataclass
class Answer:
    """A sentence's tokens and the moments (``perf_counter``) at which they were handed over."""

    tokens: list[int] = dataclasses.field(default_factory=list)
    times: list[float] = dataclasses.field(default_factory=list)
    error: BaseException | None = None
    done: threading.Event = dataclasses.field(default_factory=threading.Event)

    def take(self, tokens: NDArray[np.int32], last: bool) -> None:
        """The engine's callback."""
        now = time.perf_counter()
        self.tokens += tokens.tolist()
        self.times += [now] * len(tokens)
        if last:
            self.done.set()

    def fail(self, error: BaseException) -> None:
        """The engine's callback for an error."""
        self.error = error
        self.done.set()


def generate(engine: Engine, requests: Sequence[SequenceRequest]) -> list[Answer]:
    """Submit all at once and wait for all; raises the first error."""
    answers = [Answer() for _ in requests]
    for request, answer in zip(requests, answers, strict=True):
        engine.submit(request, answer.take, answer.fail)
    for answer in answers:
        if not answer.done.wait(LIMIT_SECONDS):
            raise TimeoutError(f"no end of a sentence after {LIMIT_SECONDS:g} s")
        if answer.error is not None:
            raise answer.error
    return answers
