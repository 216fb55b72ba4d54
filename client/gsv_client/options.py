"""What a caller can ask for, and the tensors that carry it: the client's side of the interface.

The tables `TENSORS` and `OUTPUTS` are the only place in this package where tensor names and types
stand.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from gsv_client.audio import Audio
from gsv_client.errors import InvalidRequest

Tensors = dict[str, NDArray[Any]]

MODEL = "gpt_sovits_v4"  # whole answers
STREAM_MODEL = "gpt_sovits_v4_stream"  # chunks
FRONTEND_MODEL = "text_frontend"
VOICES_MODEL = "voices"

_NUMPY: dict[str, Any] = {"FP32": np.float32, "INT32": np.int32, "INT64": np.int64}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Name, Triton datatype and length of a tensor; on the wire a leading dimension of 1 is added.

    `length` is 1 for a scalar, -1 for a wave.
    """

    name: str
    datatype: str
    length: int = 1

    def encode(self, value: Any) -> NDArray[Any]:
        """The value as an array [1, 1] or [1, n].

        Raises:
            InvalidRequest: of another type, not finite, or beyond the datatype.
        """
        if self.length == -1:
            return np.asarray(value, np.float32)[None]
        if self.datatype == "BYTES":
            return np.array([[self._text(value)]], dtype=np.object_)
        return np.array([[self._number(value)]], dtype=_NUMPY[self.datatype])

    def _text(self, value: Any) -> bytes:
        if not isinstance(value, str):
            raise InvalidRequest.value(self.name, value, "a string")
        try:
            return value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"{self.name}: character {error.start} ({value[error.start]!r}) is half of a "
                "surrogate pair and no text; allowed: any Unicode text"
            ) from error

    def _number(self, value: Any) -> float | int:
        if self.datatype == "FP32":
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise InvalidRequest.value(self.name, value, "a number")
            try:
                number = float(value)
            except OverflowError:  # an integer beyond all floats
                number = math.inf
            if not math.isfinite(number):
                raise InvalidRequest.value(self.name, value, "a finite number")
            return number
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise InvalidRequest.value(self.name, value, "a whole number")
        whole, limits = int(value), np.iinfo(_NUMPY[self.datatype])
        if not limits.min <= whole <= limits.max:
            raise InvalidRequest.value(self.name, value, f"{limits.min} to {limits.max}")
        return whole


# Option (a field of SpeechOptions, or part of one) → tensor.
TENSORS: dict[str, Tensor] = {
    "text": Tensor("TEXT", "BYTES"),
    "language": Tensor("LANGUAGE", "BYTES"),
    "voice": Tensor("VOICE", "BYTES"),
    "reference": Tensor("REFERENCE_AUDIO", "FP32", length=-1),
    "reference_sample_rate": Tensor("REFERENCE_SAMPLE_RATE", "INT32"),
    "reference_text": Tensor("REFERENCE_TEXT", "BYTES"),
    "reference_language": Tensor("REFERENCE_LANGUAGE", "BYTES"),
    "top_k": Tensor("TOP_K", "INT32"),
    "top_p": Tensor("TOP_P", "FP32"),
    "temperature": Tensor("TEMPERATURE", "FP32"),
    "repetition_penalty": Tensor("REPETITION_PENALTY", "FP32"),
    "seed": Tensor("SEED", "INT64"),
    "speed": Tensor("SPEED", "FP32"),
    "sample_steps": Tensor("SAMPLE_STEPS", "INT32"),
    "split_method": Tensor("SPLIT_METHOD", "BYTES"),
    "pause_seconds": Tensor("PAUSE_SECONDS", "FP32"),
    "sample_rate": Tensor("SAMPLE_RATE", "INT32"),
    "guard": Tensor("GUARD", "INT32"),
}


OUTPUTS: dict[str, Tensor] = {
    "audio": Tensor("AUDIO", "FP32", length=-1),
    "rate": Tensor("SAMPLE_RATE", "INT32"),
    "sentence": Tensor("SENTENCE_INDEX", "INT32"),  # stream model only
}


SPOKEN = (OUTPUTS["audio"].name, OUTPUTS["rate"].name)  # what is asked of the unary model
STREAMED = (*SPOKEN, OUTPUTS["sentence"].name)  # and of the stream model

# Of the models beside speech
ANALYSIS = "ANALYSIS"  # text_frontend: JSON
VOICES = "VOICES"  # voices: JSON
VOICE_NAME = Tensor("NAME", "BYTES")  # voices: which one; empty for all


class SpeechKeywords(TypedDict, total=False):
    """Keyword arguments of `Client.say`, `stream`, `stream_text`: the fields of SpeechOptions."""

    language: str | None
    voice: str | None
    reference: Audio | str | os.PathLike[str] | tuple[NDArray[Any], int] | None
    reference_text: str | None
    reference_language: str | None
    top_k: int | None
    top_p: float | None
    temperature: float | None
    repetition_penalty: float | None
    seed: int | None
    speed: float | None
    sample_steps: int | None
    split_method: str | None
    pause_seconds: float | None
    sample_rate: int | None
    guard: int | None


@dataclasses.dataclass(frozen=True)
class SpeechOptions:
    """How to speak. What is None is not sent, and the server's default holds.

    Choices, ranges and defaults are in `gsv_client.limits`. The server checks every value and names
    what it allows; here only what can't be sent at all is refused.

    >>> SpeechOptions(voice="demo", seed=7).tensors("Hello.")["SEED"]
    array([[7]])
    >>> SpeechOptions(top_k=1.5).tensors("Hello.")
    Traceback (most recent call last):
    gsv_client.errors.InvalidRequest: TOP_K: got 1.5; allowed: a whole number
    """

    language: str | None = None
    voice: str | None = None  # name of a voice, or name/reference; default the server's
    # Instead of a voice: a mono recording of 3 to 10 s, as Audio, path or (samples, rate). A path
    # is read at once. It needs reference_text, what is said in it.
    reference: Audio | str | os.PathLike[str] | tuple[NDArray[Any], int] | None = None
    reference_text: str | None = None
    reference_language: str | None = None  # as language
    top_k: int | None = None
    top_p: float | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None  # 0 to 2⁶³−1; the same request and seed give the same audio
    speed: float | None = None
    sample_steps: int | None = None  # of flow matching
    split_method: str | None = None
    pause_seconds: float | None = None  # silence after each sentence
    sample_rate: int | None = None  # Hz
    guard: int | None = None  # against bad speech: 0 switches it off

    def __post_init__(self) -> None:
        if self.reference is not None:
            object.__setattr__(self, "reference", Audio.of(self.reference))
            if not self.reference_text:
                raise InvalidRequest(
                    "reference_text: missing; a reference needs the text that is spoken in it "
                    "(GPT-SoVITS v4 can't do without): give reference_text (--reference-text)"
                )

    def tensors(self, text: str) -> Tensors:
        """The request for `text`: TEXT and what was set, each [1, 1] or [1, n].

        Raises:
            InvalidRequest: no text, or a value that its tensor can't hold.
        """
        if isinstance(text, str) and not text.strip():
            raise InvalidRequest("TEXT: empty; allowed: any text with something to say in it")
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if isinstance(self.reference, Audio):
            values["reference"] = self.reference.samples
            values["reference_sample_rate"] = self.reference.rate
        given = {option: value for option, value in values.items() if value is not None}
        given = {"text": text, **given}
        return {TENSORS[option].name: TENSORS[option].encode(v) for option, v in given.items()}

    def for_sentence(self, index: int) -> SpeechOptions:
        """These options for the `index`-th of several requests that make one speech.

        A fixed seed moves on by one per sentence: the whole can be repeated, yet no two sentences
        start from the same noise.
        """
        if self.seed is None or self.seed < 0:
            return self
        return dataclasses.replace(self, seed=(self.seed + index) % 2**63)


def choose_options(options: SpeechOptions | None, keywords: SpeechKeywords) -> SpeechOptions:
    """The options of a call that takes them in one piece or as keywords.

    Raises:
        InvalidRequest: given in both ways.
    """
    if options is not None and keywords:
        raise InvalidRequest(
            f"options: given together with {', '.join(keywords)}; give one or the other "
            "(dataclasses.replace makes changed options)"
        )
    return options or SpeechOptions(**keywords)
