"""The real generating stages in one process, with placeholders for text and reference."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpu_steps.placeholder_stages import ReferencePlaceholder, TextPlaceholder
from gpu_steps.setup import Setup
from gsv.offline import LocalModels, LocalToken
from gsv.stages.base import Place
from gsv.stages.calls import Answer, StageCall
from gsv.stages.messages import WaveResult
from gsv.stages.semantic_gpt import SemanticGPTStage
from gsv.stages.sovits_v4 import SoVITSStage
from gsv.stages.speech import PublicRequest
from gsv.stages.stream import ChunkResult, SpeechStreamStage
from gsv.stages.synthesis import (
    REFERENCE_ENCODER,
    SEMANTIC_GPT,
    SOVITS,
    TEXT_FRONTEND,
    VOCODER,
    run,
    whole_answer,
)
from gsv.stages.vocoder import VocoderStage

_STREAM = "gpt_sovits_v4_stream"


def vocoder_dtype(setup: Setup) -> str:
    """The vocoder's precision: float16 rounds less than bfloat16 and is as fast."""
    return "float16" if setup.on_gpu else "float32"


class Pipeline:
    """Engine, flow, vocoder and the stream in front of them, called as Triton would call them.

    It is the stream's :class:`gsv.stages.calls.CallModel`.

    Args:
        setup: the run; its repository has the weights.
        sentence_tokens: length of every sentence; the GPT itself never ends one.

    Attributes:
        calls: model, begin and end (``perf_counter``) of each call between stages; None: not kept.
    """

    def __init__(self, setup: Setup, sentence_tokens: int) -> None:
        self.calls: list[tuple[str, float, float]] | None = None
        self._models = LocalModels(setup.device)
        generators = {"dtype": setup.dtype}
        stages: dict[str, tuple[Any, dict[str, str]]] = {
            TEXT_FRONTEND: (TextPlaceholder, {}),
            REFERENCE_ENCODER: (ReferencePlaceholder, {}),
            SEMANTIC_GPT: (SemanticGPTStage, generators | {"max_tokens": str(sentence_tokens)}),
            SOVITS: (SoVITSStage, generators),
            VOCODER: (VocoderStage, {"dtype": vocoder_dtype(setup)}),
            _STREAM: (SpeechStreamStage, {}),
        }
        for name, (kind, values) in stages.items():
            place = Place(setup.repository / name / "1", setup.device)
            models = (self,) if kind is SpeechStreamStage else ()
            self._models.add(name, kind(place, kind.settings_type.parse(values), *models))

    def close(self) -> None:
        """End every stage, the stream first."""
        self._models.close()

    def stream(self, sentences: int, seed: int, steps: int) -> Iterator[ChunkResult]:
        """Chunks of an answer of so many sentences."""
        return self._models.answers(_STREAM, _request(sentences, seed, steps))

    def whole(self, sentences: int, seed: int, steps: int) -> WaveResult:
        """A whole answer, stage after stage as in the ensemble."""
        token = LocalToken()
        answer = whole_answer(_request(sentences, seed, steps).filled())
        return run(answer, lambda call: self(call, token))

    def __call__(self, call: StageCall[Answer], token: LocalToken) -> Answer:
        """As :class:`gsv.stages.calls.CallModel`."""
        started = time.perf_counter()
        answer = self._models(call, token)
        if self.calls is not None:
            self.calls.append((call.model, started, time.perf_counter()))
        return answer

    def token(self, request_id: str) -> LocalToken:
        """As :class:`gsv.stages.calls.CallModel`."""
        return self._models.token(request_id)


def _request(sentences: int, seed: int, steps: int) -> PublicRequest:
    """The placeholders answer to the number of sentences that the text names.

    The recording is not listened to: it makes the request complete without a voice folder. The
    guard would draw each sentence again, since none of them ends.
    """
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 64_000).astype(np.float32)
    return PublicRequest(
        text=str(sentences),
        reference_audio=noise,
        reference_sample_rate=16_000,
        reference_text="reference",
        seed=seed,
        sample_steps=steps,
        guard=0,
    )
