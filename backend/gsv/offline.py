"""The same stages in one process, without Triton: for tests, debugging and benchmarks.

>>> with Offline(Path("build/demo/model_repository")) as speaker:  # doctest: +SKIP
...     audio, rate = speaker.say(text="Hello.", seed=1)
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsv.device import prepare
from gsv.stages.base import Place, Tensors
from gsv.stages.reference_encoder import ReferenceEncoderStage
from gsv.stages.semantic_gpt import SemanticGPTEngineStage, SemanticGPTStage
from gsv.stages.sovits_v4 import SoVITSStage
from gsv.stages.speech import PIPELINE, SpeechStage
from gsv.stages.stream import SpeechStreamStage
from gsv.stages.text_frontend import TextFrontendStage
from gsv.stages.vocoder import VocoderStage
from gsv.stages.voices import VoicesStage

STAGES: dict[str, Any] = {
    "text_frontend": TextFrontendStage,
    "reference_encoder": ReferenceEncoderStage,
    "semantic_gpt_engine": SemanticGPTEngineStage,
    "semantic_gpt": SemanticGPTStage,
    "sovits_v4": SoVITSStage,
    "vocoder": VocoderStage,
    "voices": VoicesStage,
    "gpt_sovits_v4": SpeechStage,
    "gpt_sovits_v4_stream": SpeechStreamStage,
}
BRIDGED = (SemanticGPTStage, SpeechStage, SpeechStreamStage)
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
        device = str(prepare(device))
        self._stages: dict[str, Any] = {}
        self._running: dict[tuple[str, str], Callable[[], None]] = {}
        self._locks = {name: threading.Lock() for name in STAGES}
        voices = {"voice_folder": "../voices", "default_voice": "sample"}
        for name, kind in STAGES.items():
            place = Place(repository / name / "1", device)
            known = {field.name for field in dataclasses.fields(kind.settings_type)}
            chosen = {k: v for k, v in voices.items() if k in known} | (settings or {}).get(
                name, {}
            )
            bridge = (self,) if kind in BRIDGED else ()
            self._stages[name] = kind(place, kind.settings_type.parse(chosen), *bridge)
            self._stages[name].warm_up()

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
        answer = self("gpt_sovits_v4", tensors, ["AUDIO", "SAMPLE_RATE"])
        return answer["AUDIO"], answer["SAMPLE_RATE"]

    def stream(self, **request: Any) -> Iterator[Tensors]:
        """The same answer in chunks: AUDIO, SAMPLE_RATE and SENTENCE_INDEX of each."""
        tensors = {name.upper(): value for name, value in request.items()}
        return self._responses("gpt_sovits_v4_stream", tensors, "")

    def __call__(
        self, model: str, tensors: Tensors, outputs: Sequence[str], *, job: str = ""
    ) -> Tensors:
        """As :class:`gsv.stages.calls.CallModel`, on the stages of this process."""
        if model == PIPELINE:
            return self._run_pipeline(tensors, job)
        (answer,) = self._responses(model, tensors, job)
        return answer

    def _responses(self, model: str, tensors: Tensors, job: str) -> Iterator[Tensors]:
        stage = self._stages[model]
        fields = {field.name for field in dataclasses.fields(stage.request_type)}
        request = stage.request_type(
            **{name.lower(): v for name, v in tensors.items() if name.lower() in fields}
        )
        if hasattr(stage, "run_batch"):
            with self._locks[model]:  # as Triton, which calls it from one thread
                (answer,) = stage.run_batch([request])
            if isinstance(answer, BaseException):
                raise answer
            yield _tensors(answer)
            return
        waiting = _Waiting()
        self._running[job, model] = stage.submit(request, waiting)
        try:
            yield from waiting.answers()
        finally:
            self._running.pop((job, model), None)

    def cancel(self, model: str, job: str) -> None:
        """Cancel the calls of ``model`` named ``job``."""
        stop = self._running.get((job, model))
        if stop is not None:
            stop()
        elif abandon := getattr(self._stages[model], "abandon", None):
            abandon(job)

    def _run_pipeline(self, tensors: Tensors, job: str) -> Tensors:
        known = dict(tensors)
        for step in PIPELINE_STEPS:
            known.update(self(step, known, [], job=job))
        return known


def _tensors(result: Any) -> Tensors:
    return {field.name.upper(): getattr(result, field.name) for field in dataclasses.fields(result)}


class _Waiting:
    """A reply that a thread waits for."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[Any, bool]] = queue.Queue()

    def send(self, result: Any, *, final: bool) -> None:
        self._queue.put((_tensors(result), final))

    def finish(self) -> None:
        self._queue.put((None, True))

    def fail(self, error: BaseException) -> None:
        self._queue.put((error, True))

    def answers(self) -> Iterator[Tensors]:
        final = False
        while not final:
            answer, final = self._queue.get()
            if isinstance(answer, BaseException):
                raise answer
            if answer is not None:
                yield answer
