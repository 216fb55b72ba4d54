"""The same stages in one process, without Triton: for tests, debugging and benchmarks.

    >>> with Offline(Path("build/demo/model_repository")) as speaker:  # doctest: +SKIP
    ...     audio, rate = speaker.say(text="Hello.", seed=1)
"""

from __future__ import annotations

import dataclasses
import queue
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsv.stages.base import Place, Tensors
from gsv.stages.reference_encoder import ReferenceEncoderStage
from gsv.stages.semantic_gpt import SemanticGPTEngineStage, SemanticGPTStage
from gsv.stages.sovits_v4 import SoVITSStage
from gsv.stages.speech import PIPELINE, SpeechStage
from gsv.stages.text_frontend import TextFrontendStage
from gsv.stages.vocoder import VocoderStage

STAGES: dict[str, Any] = {
    "text_frontend": TextFrontendStage,
    "reference_encoder": ReferenceEncoderStage,
    "semantic_gpt_engine": SemanticGPTEngineStage,
    "semantic_gpt": SemanticGPTStage,
    "sovits_v4": SoVITSStage,
    "vocoder": VocoderStage,
    "gpt_sovits_v4": SpeechStage,
}
# The steps of gpt_sovits_v4_pipeline in an order that satisfies them.
PIPELINE_STEPS = ("text_frontend", "reference_encoder", "semantic_gpt", "sovits_v4", "vocoder")


class Offline:
    """A prepared repository's stages, called directly.

    Args:
        repository: folder that ``gsv prepare`` made.
        device: where every stage runs.
        settings: parameters by model name, as in its ``config.pbtxt``.
    """

    def __init__(
        self,
        repository: Path,
        device: str = "cpu",
        settings: dict[str, dict[str, str]] | None = None,
    ) -> None:
        self._stages: dict[str, Any] = {}
        voices = {"voice_folder": "../voices", "default_voice": "sample"}
        defaults = {"text_frontend": voices, "reference_encoder": voices}
        for name, kind in STAGES.items():
            place = Place(repository / name / "1", device)
            chosen = {**defaults.get(name, {}), **(settings or {}).get(name, {})}
            bridge = (self.call,) if kind in (SpeechStage, SemanticGPTStage) else ()
            self._stages[name] = kind(place, kind.Settings.parse(chosen), *bridge)

    def __enter__(self) -> Offline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every stage, the ones that call others first."""
        for name in reversed(self._stages):
            self._stages[name].close()

    def say(self, **request: Any) -> tuple[NDArray[np.float32], int]:
        """One answer: samples and their rate. Keywords are the public tensors in lower case."""
        tensors = {name.upper(): value for name, value in request.items()}
        (answer,) = self.call("gpt_sovits_v4", tensors, ["AUDIO", "SAMPLE_RATE"])
        return answer["AUDIO"], answer["SAMPLE_RATE"]

    def call(
        self, model: str, tensors: Tensors, outputs: Sequence[str], *, decoupled: bool = False
    ) -> Iterator[Tensors]:
        """As :class:`gsv.stages.base.CallModel`, on the stages of this process."""
        if model == PIPELINE:
            yield self._run_pipeline(tensors)
            return
        stage = self._stages[model]
        fields = {field.name for field in dataclasses.fields(stage.Request)}
        request = stage.Request(
            **{name.lower(): v for name, v in tensors.items() if name.lower() in fields}
        )
        if hasattr(stage, "run_batch"):
            (answer,) = stage.run_batch([request])
            if isinstance(answer, BaseException):
                raise answer
            yield _tensors(answer)
            return
        waiting = _Waiting()
        stage.submit(request, waiting)
        yield from waiting.answers()

    def _run_pipeline(self, tensors: Tensors) -> Tensors:
        known = dict(tensors)
        for step in PIPELINE_STEPS:
            (answer,) = self.call(step, known, [])
            known.update(answer)
        return known


def _tensors(result: Any) -> Tensors:
    return {field.name.upper(): getattr(result, field.name) for field in dataclasses.fields(result)}


class _Waiting:
    """A reply that a thread waits for."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[Any, bool]] = queue.Queue()

    def send(self, result: Any, *, final: bool) -> None:
        self._queue.put((_tensors(result), final))

    def fail(self, error: BaseException) -> None:
        self._queue.put((error, True))

    def answers(self) -> Iterator[Tensors]:
        final = False
        while not final:
            answer, final = self._queue.get()
            if isinstance(answer, BaseException):
                raise answer
            yield answer
