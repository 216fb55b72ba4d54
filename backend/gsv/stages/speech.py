"""gpt_sovits_v4: the public request, checked whole before any work, then handed to the pipeline.

The stages behind it form the ensemble ``gpt_sovits_v4_pipeline``. This face stands before it for
three reasons. Triton's ensembles can't have an input and an output of the same name, and
``SAMPLE_RATE`` is both in the public interface. Requests that set different optional inputs are
never batched together, so defaults are filled in here and every later tensor is always present.
And a bad value is refused before it costs anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gsv.errors import InvalidRequest
from gsv.options import (
    DEFAULTS,
    LANGUAGES,
    SpeechOptions,
    check_choice,
    check_range,
    check_text,
    resolve_seed,
)
from gsv.stages.base import Place, Reply, Tensors
from gsv.stages.base import Settings as BaseSettings
from gsv.stages.calls import CallModel, CallPool, CallScope

PIPELINE = "gpt_sovits_v4_pipeline"
# Steps with a running batch, where a caller's departure saves work.
CANCELLABLE_STEPS = ("semantic_gpt", "sovits_v4")


@dataclasses.dataclass(frozen=True)
class Request:
    """The public inputs with their defaults; making one checks every rule between them."""

    text: str
    language: str = "auto"
    voice: str = ""
    reference_audio: NDArray[np.float32] | None = None  # [samples], mono
    reference_sample_rate: int | None = None
    reference_text: str = ""
    reference_language: str = "auto"
    top_k: int = DEFAULTS.top_k
    top_p: float = DEFAULTS.top_p
    temperature: float = DEFAULTS.temperature
    repetition_penalty: float = DEFAULTS.repetition_penalty
    seed: int = DEFAULTS.seed
    speed: float = DEFAULTS.speed
    sample_steps: int = DEFAULTS.sample_steps
    split_method: str = DEFAULTS.split_method
    pause_seconds: float = DEFAULTS.pause_seconds
    sample_rate: int = DEFAULTS.sample_rate

    def __post_init__(self) -> None:
        check_text("TEXT", self.text)
        check_choice("LANGUAGE", self.language, LANGUAGES)
        check_choice("REFERENCE_LANGUAGE", self.reference_language, LANGUAGES)
        _ = self.options
        self._check_reference()

    @property
    def options(self) -> SpeechOptions:
        """The scalar choices, checked."""
        names = [field.name for field in dataclasses.fields(SpeechOptions)]
        return SpeechOptions(**{name: getattr(self, name) for name in names})

    def _check_reference(self) -> None:
        """A reference is complete or absent, and never together with a voice."""
        parts = {
            "REFERENCE_AUDIO": self.reference_audio is not None,
            "REFERENCE_SAMPLE_RATE": self.reference_sample_rate is not None,
            "REFERENCE_TEXT": bool(self.reference_text),
        }
        given = [name for name, present in parts.items() if present]
        missing = [name for name, present in parts.items() if not present]
        if given and missing:
            raise InvalidRequest(
                f"{', '.join(missing)}: missing beside {', '.join(given)}; allowed: all three of "
                f"{', '.join(parts)} (v4 cannot do without the transcript), or none of them"
            )
        if given and self.voice:
            raise InvalidRequest(
                f"VOICE: got {self.voice!r} together with REFERENCE_AUDIO; allowed: one of the two"
            )
        if self.reference_sample_rate is not None:
            check_range("REFERENCE_SAMPLE_RATE", self.reference_sample_rate)
            check_text("REFERENCE_TEXT", self.reference_text)

    def tensors(self) -> Tensors:
        """All inputs of the pipeline; the reference's samples only if there are any."""
        values = {f.name.upper(): getattr(self, f.name) for f in dataclasses.fields(self)}
        values["SEED"] = resolve_seed(self.seed)
        return {name: value for name, value in values.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Result:
    """One complete answer."""

    audio: NDArray[np.float32]  # [samples], mono, -1 to 1
    sample_rate: int


@dataclasses.dataclass(frozen=True)
class Settings(BaseSettings):
    """Parameters of the model."""

    concurrency: int = 64  # requests inside the pipeline at once
    waiting: int = 256  # requests that may wait at the door; one more is refused


class SpeechStage:
    """Checks, fills in defaults, and waits for the pipeline on a thread of a pool."""

    request_type = Request
    result_type = Result
    settings_type = Settings

    def __init__(self, place: Place, settings: Settings, call: CallModel) -> None:
        self._pool = CallPool("speech", call, settings.concurrency, settings.waiting)

    def warm_up(self) -> None:
        """The stages warm themselves up."""

    def close(self) -> None:
        """Wait for calls under way."""
        self._pool.close()

    def submit(self, request: Request, reply: Reply) -> Callable[[], None]:
        """Hand the request to the pipeline."""

        def work(scope: CallScope) -> None:
            answer = scope.one(PIPELINE, request.tensors(), ["AUDIO"], inside=CANCELLABLE_STEPS)
            reply.send(Result(answer["AUDIO"], request.sample_rate), final=True)

        return self._pool.submit(work, reply)
