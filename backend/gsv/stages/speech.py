"""gpt_sovits_v4: the public request, checked whole before any work, then led through the stages.

Triton never batches requests that set different optional inputs, so all defaults are filled in
here. The stages are called one by one, and not as the ensemble ``gpt_sovits_v4_pipeline``: when a
stage's process dies, its own work is lost and no other stage's.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsv.constants import MEL_RATE
from gsv.errors import GsvError, InvalidRequest, shown
from gsv.options import (
    DEFAULTS,
    LANGUAGES,
    SpeechOptions,
    check_choice,
    check_range,
    check_text,
    resolve_seed,
)
from gsv.reply import Reply
from gsv.stages.answer_details import AnswerDetails
from gsv.stages.base import Place
from gsv.stages.base import Settings as BaseSettings
from gsv.stages.calls import CallModel, CallPool, CancelScope
from gsv.stages.messages import Details, PipelineResult, SpeechRequest
from gsv.stages.metered_reply import MeteredReply
from gsv.stages.synthesis import run, whole_answer
from gsv.stages.waiting_line import LineLimits
from gsv.timings import Timings
from gsv.voices import VoiceFolder
from gsv.voices.metrics import VoiceMetrics

TIMES, REPORT = "TIMES", "REPORT"
_VOICE_CHANGES = 4  # replacements of a voice that one request lives through


@dataclasses.dataclass(frozen=True)
class PublicRequest:
    """The public inputs with their defaults; making one checks every rule between them."""

    text: str
    language: str = "auto"
    voice: str = ""
    reference_audio: NDArray[np.float32] | None = None  # [samples], mono
    reference_sample_rate: int | None = None
    reference_text: str = ""
    reference_language: str = "auto"
    # None: the voice's own default, else that of SpeechOptions.
    top_k: int | None = None
    top_p: float | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    seed: int = DEFAULTS.seed
    speed: float | None = None
    sample_steps: int | None = None
    split_method: str = DEFAULTS.split_method
    pause_seconds: float = DEFAULTS.pause_seconds
    sample_rate: int = DEFAULTS.sample_rate
    request_id: str = ""  # the caller's own, for logs
    guard: int = DEFAULTS.guard
    outputs: frozenset[str] = frozenset()  # optional ones that are wanted: TIMES, REPORT

    def __post_init__(self) -> None:
        check_text("TEXT", self.text)
        check_choice("LANGUAGE", self.language, LANGUAGES)
        check_choice("REFERENCE_LANGUAGE", self.reference_language, LANGUAGES)
        _ = self.options
        self._check_reference()

    @property
    def options(self) -> SpeechOptions:
        """The scalar choices, checked; defaults where nothing was chosen."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(SpeechOptions)}
        return SpeechOptions(**{name: v for name, v in values.items() if v is not None})

    @property
    def details(self) -> Details:
        """What the semantic GPT has to tell for the outputs that are wanted."""
        if TIMES in self.outputs:
            return Details.TIMES
        return Details.REPORT if REPORT in self.outputs else Details.NONE

    @property
    def brings_recording(self) -> bool:
        """Whether it speaks after a recording of its own instead of a voice."""
        return self.reference_audio is not None

    def resolved(self, voices: VoiceFolder, *, fresh: bool = False) -> PublicRequest:
        """The same request with the voice's content pinned and its defaults filled in.

        Every stage behind then uses one version of the voice, also when it is replaced meanwhile.

        Raises:
            InvalidRequest: there is no such voice.
            VoiceError: its folder is broken.
        """
        if self.brings_recording:
            return self
        voice = voices.get(self.voice, fresh=fresh)
        defaults: dict[str, Any] = {
            name: value for name, value in voice.sampling.items() if getattr(self, name) is None
        }
        return dataclasses.replace(self, voice=voice.pinned, **defaults)

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
                f"VOICE: got {shown(self.voice)} together with REFERENCE_AUDIO; "
                "allowed: one of the two"
            )
        if self.reference_sample_rate is not None:
            check_range("REFERENCE_SAMPLE_RATE", self.reference_sample_rate)
            check_text("REFERENCE_TEXT", self.reference_text)

    def filled(self) -> SpeechRequest:
        """With every default filled in and the seed drawn."""
        values = dataclasses.asdict(self.options) | {
            "seed": resolve_seed(self.seed),
            "details": self.details,
        }
        for field in dataclasses.fields(SpeechRequest):
            values.setdefault(field.name, getattr(self, field.name, None))
        return SpeechRequest(**values)


def in_one_voice(
    request: PublicRequest,
    voices: VoiceFolder,
    scope: CancelScope,
    speak: Callable[[SpeechRequest, CancelScope], None],
    begun: Callable[[], bool] = lambda: False,
) -> None:
    """Call ``speak`` with the voice pinned, again if the voice was replaced meanwhile.

    A stage refuses when it finds another content than the pinned one. Its error comes back through
    Triton in several forms; so it is not recognised by its text, but by the folder's new content.

    Args:
        begun: whether the caller has heard something, so that it is too late to begin again.
    """
    pinned = request.resolved(voices)
    for _ in range(_VOICE_CHANGES):
        try:
            speak(pinned.filled(), scope.inner())
            return
        except GsvError:
            if request.brings_recording or scope.cancelled.is_set() or begun():
                raise
            again = request.resolved(voices, fresh=True)
            if again.voice == pinned.voice:
                raise
            pinned = again
    speak(pinned.filled(), scope.inner())


def told_of(answer: PipelineResult, details: int) -> tuple[str | None, str]:
    """``TIMES`` and ``REPORT`` of a whole answer."""
    told = AnswerDetails(details, answer.analysis)
    start = float(answer.pauses[0])
    lengths = (answer.mel_counts / MEL_RATE).tolist()
    for index, drawn in enumerate(json.loads(answer.drawn)):
        told.add(index, drawn, start, lengths[index])
        start += lengths[index] + float(answer.pauses[index + 1])
    return told.take()


@dataclasses.dataclass(frozen=True)
class SpeechResult:
    """One complete answer."""

    audio: NDArray[np.float32]  # [samples], mono, -1 to 1
    sample_rate: int
    times: str | None = None  # JSON, where it was asked for
    report: str | None = None  # JSON, where it was asked for


@dataclasses.dataclass(frozen=True)
class Settings(BaseSettings):
    """Parameters of the model."""

    concurrency: int = 64  # requests inside the pipeline at once
    waiting: int = 256  # requests that may wait to be let in; one more is refused
    characters: int = 200_000  # of the texts in work and waiting together; more is refused
    voice_folder: str = "../voices"  # relative to the model repository
    default_voice: str = ""

    @property
    def line(self) -> LineLimits:
        """What may be inside at once."""
        return LineLimits(self.concurrency, self.waiting, self.characters)


class SpeechStage:
    """Checks, fills in defaults, and waits for the stages on a thread of a pool."""

    request_type = PublicRequest
    result_type = SpeechResult
    settings_type = Settings

    def __init__(self, place: Place, settings: Settings, call: CallModel) -> None:
        self._pool = CallPool("speech", call, settings.line)
        self._voices = place.voices(settings.voice_folder, settings.default_voice)
        self.voice_metrics = VoiceMetrics(self._voices)
        self.timings = Timings("queue")

    def warm_up(self) -> None:
        """The stages warm themselves up."""

    def close(self) -> None:
        """Wait for calls under way."""
        self._pool.close()

    def load(self) -> None:
        """The running batches are the stages\' own."""

    def submit(self, request: PublicRequest, reply: Reply) -> Callable[[], None]:
        """Lead the request through the stages."""

        def speak(pinned: SpeechRequest, scope: CancelScope) -> None:
            answer = run(whole_answer(pinned), scope, scope.beside)
            times, report = told_of(answer, pinned.details) if pinned.details else (None, None)
            counted.send(SpeechResult(answer.audio, request.sample_rate, times, report), final=True)

        def work(scope: CancelScope) -> None:
            counted.voice = self.voice_metrics.label(
                request.voice, own_recording=request.brings_recording
            )
            in_one_voice(request, self._voices, scope, speak)

        counted = MeteredReply(reply, self.voice_metrics, self.timings)
        return counted.submitted(self._pool, work, request.request_id, len(request.text))
