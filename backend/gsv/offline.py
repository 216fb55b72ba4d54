"""The same stages in one process, without Triton: for tests, debugging and benchmarks.

>>> with Offline(Path("build/demo/model_repository")) as speaker:  # doctest: +SKIP
...     answer = speaker.say(text="Hello.", seed=1)
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from gsv.device import prepare
from gsv.stages.base import Place
from gsv.stages.calls import Answer, StageCall
from gsv.stages.messages import MoreTokens, SemanticRequest
from gsv.stages.reference_encoder import ReferenceEncoderStage
from gsv.stages.semantic_gpt import SemanticGPTStage
from gsv.stages.sovits_v4 import SoVITSStage
from gsv.stages.speech import PublicRequest, SpeechResult, SpeechStage
from gsv.stages.stream import ChunkResult, SpeechStreamStage
from gsv.stages.text_frontend import TextFrontendStage
from gsv.stages.vocoder import VocoderStage
from gsv.stages.voices import VoicesStage

STAGES: dict[str, Any] = {
    "text_frontend": TextFrontendStage,
    "reference_encoder": ReferenceEncoderStage,
    "semantic_gpt": SemanticGPTStage,
    "sovits_v4": SoVITSStage,
    "vocoder": VocoderStage,
    "voices": VoicesStage,
    "gpt_sovits_v4": SpeechStage,
    "gpt_sovits_v4_stream": SpeechStreamStage,
}
CALLING = (SpeechStage, SpeechStreamStage)  # stages that call others


class LocalToken:
    """Names one caller's calls, as :class:`gsv.stages.calls.CancelToken`."""

    def __init__(self) -> None:
        self._cancels: dict[object, Callable[[], None]] = {}
        self._lock = threading.Lock()
        self.cancelled = False

    def cancel(self) -> None:
        """Call off what is under way, and what comes later."""
        with self._lock:
            self.cancelled = True
            cancels = list(self._cancels.values())
        for cancel in cancels:
            cancel()

    def release(self) -> None:
        """The caller needs no more answers; a stage that still works for it may stop."""
        self.cancel()

    def await_first_audio(self, *, awaited: bool) -> None:
        """Nobody else is here who could give way."""

    def watch(self, call: object, cancel: Callable[[], None]) -> None:
        """Call ``cancel`` when the caller leaves, as long as ``call`` is under way."""
        with self._lock:
            self._cancels[call] = cancel
            late = self.cancelled
        if late:
            cancel()

    def forget(self, call: object) -> None:
        """The call has ended."""
        with self._lock:
            self._cancels.pop(call, None)


class LocalModels:
    """Stages of this process by the names of their models, as :class:`gsv.stages.calls.CallModel`.

    Args:
        device: where every stage runs.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._device = str(prepare(device))
        self._stages: dict[str, Any] = {}
        self._locks: dict[str, threading.Lock] = {}

    def add(self, model: str, stage: Any) -> None:
        """Serve a stage under the name of a model, and warm it up."""
        self._stages[model] = stage
        self._locks[model] = threading.Lock()
        stage.warm_up()

    def close(self) -> None:
        """End every stage, the last one added first."""
        for stage in reversed(self._stages.values()):
            stage.close()

    def token(self, request_id: str) -> LocalToken:
        """A name for the calls of one caller."""
        return LocalToken()

    def __call__(self, call: StageCall[Answer], token: LocalToken) -> Answer:
        """The answer of a stage; its error is raised."""
        request = call.request
        if call.sequence is not None and isinstance(request, SemanticRequest | MoreTokens):
            step = call.sequence
            request = dataclasses.replace(request, sequence=step.id, end=step.end)
        (answer,) = self.answers(call.model, request, token)
        found: Answer = answer
        return found

    def answers(self, model: str, request: Any, token: LocalToken | None = None) -> Iterator[Any]:
        """What a model answers to a request of its stage: one result, or those of a stream."""
        prepare(self._device)  # stages compute on whatever thread asks
        stage, token = self._stages[model], token or LocalToken()
        if hasattr(stage, "run_batch"):
            with self._locks[model]:  # as Triton, which calls it from one thread
                (answer,) = stage.run_batch([request])
            if isinstance(answer, BaseException):
                raise answer
            yield answer
            return
        waiting = _Waiting(token)
        cancel = stage.submit(request, waiting)

        def leave() -> None:
            cancel()
            if sweep := getattr(stage, "sweep", None):
                sweep()

        token.watch(waiting, leave)
        try:
            yield from waiting.answers()
        finally:
            # A sequence goes on after this answer, and its end is to be heard as well.
            if not hasattr(stage, "sweep"):
                token.forget(waiting)


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
        self.models = LocalModels(device)
        voices = {"voice_folder": "../voices", "default_voice": "sample"}
        for name, kind in STAGES.items():
            place = Place(repository / name / "1", str(prepare(device)))
            known = {field.name for field in dataclasses.fields(kind.settings_type)}
            chosen = {k: v for k, v in voices.items() if k in known}
            parsed = kind.settings_type.parse(chosen | (settings or {}).get(name, {}))
            self.models.add(name, kind(place, parsed, *((self.models,) if kind in CALLING else ())))

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
        self.models.close()

    def say(self, **request: Any) -> SpeechResult:
        """One answer. Keywords are the public tensors in lower case; ``outputs`` names the optional
        outputs that are wanted."""
        (answer,) = self.models.answers("gpt_sovits_v4", PublicRequest(**request))
        result: SpeechResult = answer
        return result

    def stream(self, **request: Any) -> Iterator[ChunkResult]:
        """The same answer in chunks."""
        return self.models.answers("gpt_sovits_v4_stream", PublicRequest(**request))


class _Waiting:
    """A reply that a thread waits for."""

    def __init__(self, token: LocalToken) -> None:
        self._queue: queue.Queue[tuple[Any, bool]] = queue.Queue()
        self._token = token

    def is_cancelled(self) -> bool:
        return self._token.cancelled

    def is_watched(self) -> bool:
        return True

    def send(self, result: Any, *, final: bool) -> None:
        self._queue.put((result, final))

    def finish(self) -> None:
        self._queue.put((None, True))

    def fail(self, error: BaseException) -> None:
        self._queue.put((error, True))

    def answers(self) -> Iterator[Any]:
        final = False
        while not final:
            answer, final = self._queue.get()
            if isinstance(answer, BaseException):
                raise answer
            if answer is not None:
                yield answer
