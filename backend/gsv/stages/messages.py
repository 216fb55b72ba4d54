"""What the stages ask of each other and answer: one class for each side of a model.

Field names are the lower-case tensor names of the model's ``config.pbtxt``. A field with a default
is an optional input, or an output that a call between stages doesn't ask for. No torch here: the
public models run in processes that have no network. In the order of the request's way:

    TextRequest, ReferenceRequest → SemanticRequest → MelRequest → WaveRequest

Sentences stand one after another in one array, with their lengths beside it, as on the wire.
"""

from __future__ import annotations

import dataclasses
import enum
import math

import numpy as np
from numpy.typing import NDArray

from gsv.constants import (
    BERT_DIM,
    EOS,
    MAX_TOKENS,
    MAX_TOTAL_PAUSE,
    MEL_CHANNELS,
    MEL_RATE,
    PHONEMES,
    REFERENCE_MAX_SECONDS,
    REFERENCE_MIN_SECONDS,
    REFERENCE_RATE,
    SPECTRUM_HOP,
    STYLE_BINS,
    TOKEN_RATE,
)
from gsv.engine.gpt.judge import PHONEME_LANGUAGES
from gsv.errors import InvalidRequest
from gsv.options import (
    DEFAULTS,
    LANGUAGES,
    RANGES,
    SAMPLE_RATES,
    SPLIT_METHODS,
    check_choice,
    check_range,
    check_seed,
    check_text,
)
from gsv.stages.arrays import check_counts, check_ids

# A recording that decoders push a little over full scale is scaled back; samples far outside are
# integers that nobody divided.
PEAK_LIMIT = 1.0
PAUSE_MAX_SECONDS = 10.0
# Of what callers may send the acoustic model, whose attention takes memory by the square of a
# length. The GPT ends a sentence at MAX_TOKENS, which no parameter raises, and takes no more than
# 4,000 positions of phonemes and tokens, the rows of its table.
SENTENCE_TOKENS = MAX_TOKENS + 500
SENTENCE_PHONEMES = 4_000  # of a sentence, and of a transcript
# Twice the longest reference: prompts have a tail, and numbers of frames are rounded.
_PROMPT_TOKENS = round(2 * REFERENCE_MAX_SECONDS * TOKEN_RATE)
_SPECTRUM_FRAMES = round(2 * REFERENCE_MAX_SECONDS * REFERENCE_RATE / SPECTRUM_HOP)
_MEL_FRAMES = round(2 * REFERENCE_MAX_SECONDS * MEL_RATE)
_FRAME_SECONDS = 0.02
_SILENCE = 1e-3  # RMS: -60 dB against full scale


class Details(enum.IntEnum):
    """What the semantic GPT tells of its sentences beside their tokens."""

    NONE = 0
    REPORT = 1  # how each was drawn
    TIMES = 2  # that, and when each of its phonemes begins


@dataclasses.dataclass(frozen=True)
class SpeechRequest:
    """One whole answer: the inputs of ``gpt_sovits_v4_pipeline``, every default filled in."""

    text: str
    language: str
    voice: str  # with its content pinned; "" beside a recording
    reference_text: str
    reference_language: str
    top_k: int
    top_p: float
    temperature: float
    repetition_penalty: float
    seed: int  # 0 or more
    speed: float
    sample_steps: int
    split_method: str
    pause_seconds: float
    sample_rate: int
    guard: int = DEFAULTS.guard
    details: int = Details.NONE
    reference_audio: NDArray[np.float32] | None = None  # [samples], mono
    reference_sample_rate: int | None = None


@dataclasses.dataclass(frozen=True)
class TextRequest:
    """What to say, and whose transcript goes before it."""

    text: str
    language: str = "auto"
    split_method: str = DEFAULTS.split_method
    pause_seconds: float = DEFAULTS.pause_seconds
    voice: str = ""
    reference_text: str = ""
    reference_language: str = "auto"

    def __post_init__(self) -> None:
        check_text("TEXT", self.text)
        check_choice("LANGUAGE", self.language, LANGUAGES)
        check_choice("SPLIT_METHOD", self.split_method, SPLIT_METHODS)
        check_range("PAUSE_SECONDS", self.pause_seconds)
        check_choice("REFERENCE_LANGUAGE", self.reference_language, LANGUAGES)
        if self.reference_text:
            check_text("REFERENCE_TEXT", self.reference_text)


@dataclasses.dataclass(frozen=True)
class TextResult:
    """Phonemes of all sentences one after another, and those of the reference's transcript."""

    phonemes: NDArray[np.int32]  # [n]
    phoneme_counts: NDArray[np.int32]  # [sentences]
    bert_features: NDArray[np.float32]  # [rows, 1024]
    bert_rows: NDArray[np.int32]  # [n]
    phoneme_languages: NDArray[np.int32]  # [n], places in PHONEME_LANGUAGES
    pauses: NDArray[np.float32]  # [sentences + 1] seconds, before the first and after each
    prompt_phonemes: NDArray[np.int32]  # [p]
    prompt_bert_features: NDArray[np.float32]  # [prompt rows, 1024]
    prompt_bert_rows: NDArray[np.int32]  # [p]
    pinned_voice: str = ""  # the voice that was read, with its content; "" beside a recording
    analysis: str = ""  # JSON: sentences, segments, normalised text, phonemes


@dataclasses.dataclass(frozen=True)
class ReferenceRequest:
    """A voice by name, or a recording with its rate."""

    voice: str = ""
    reference_audio: NDArray[np.float32] | None = None  # [samples], mono
    reference_sample_rate: int | None = None

    def __post_init__(self) -> None:
        if self.reference_audio is None:
            return
        if self.reference_sample_rate is None:
            raise InvalidRequest(
                "REFERENCE_SAMPLE_RATE: missing beside REFERENCE_AUDIO; allowed: "
                f"{RANGES['REFERENCE_SAMPLE_RATE']} Hz"
            )
        check_range("REFERENCE_SAMPLE_RATE", self.reference_sample_rate)
        _check_samples(self.reference_audio, self.reference_sample_rate)


def _check_samples(samples: NDArray[np.float32], rate: int) -> None:
    seconds = len(samples) / rate
    # Outer bounds before any work; the exact count is taken after resampling, as upstream does.
    if not REFERENCE_MIN_SECONDS - 0.01 <= seconds <= REFERENCE_MAX_SECONDS + 0.01:
        raise wrong_length(seconds)
    if not np.isfinite(samples).all():
        raise InvalidRequest("REFERENCE_AUDIO: got samples that are not finite; allowed: -1 to 1")
    peak = float(np.abs(samples).max())
    if peak > PEAK_LIMIT:
        raise InvalidRequest(
            f"REFERENCE_AUDIO: got samples up to {peak:g}; allowed: -1 to 1 "
            "(divide 16-bit integers by 32768)"
        )
    if _is_silent(samples, rate):
        raise InvalidRequest(
            "REFERENCE_AUDIO: holds nothing but silence; allowed: a recording of speech (two "
            "channels in opposite phase cancel each other when they are mixed: send one of them)"
        )


def _is_silent(samples: NDArray[np.float32], rate: int) -> bool:
    """Whether no 20 ms of it are louder than -60 dB against full scale, a constant apart."""
    size = max(1, round(rate * _FRAME_SECONDS))
    frames = samples[: len(samples) // size * size].reshape(-1, size).astype(np.float64)
    return not len(frames) or float(frames.std(axis=1).max()) <= _SILENCE


def wrong_length(seconds: float) -> InvalidRequest:
    low, high = REFERENCE_MIN_SECONDS, REFERENCE_MAX_SECONDS
    # So many digits that the number does not look allowed.
    shown = (f"{seconds:.{digits}f}" for digits in range(2, 9))
    told = next((text for text in shown if not low <= float(text) <= high), repr(seconds))
    return InvalidRequest(
        f"REFERENCE_AUDIO: got {told} s; allowed: {REFERENCE_MIN_SECONDS:g} to "
        f"{REFERENCE_MAX_SECONDS:g} s of speech"
    )


@dataclasses.dataclass(frozen=True)
class ReferenceResult:
    """What the generators need of a reference."""

    prompt_tokens: NDArray[np.int32]  # [tokens], 25 a second
    reference_spectrum: NDArray[np.float32]  # [704, frames] float32, 50 a second
    reference_mel: NDArray[
        np.float32
    ]  # [100, frames] float32, 100 a second, log-mel scaled to [-1, 1]


@dataclasses.dataclass(frozen=True)
class SemanticRequest:
    """Sentences to speak, the reference before them, and how to sample."""

    phonemes: NDArray[np.int32]  # [n], all sentences
    phoneme_counts: NDArray[np.int32]  # [sentences]
    bert_features: NDArray[np.float32]  # [rows, 1024]
    bert_rows: NDArray[np.int32]  # [n]
    prompt_phonemes: NDArray[np.int32]  # [p]
    prompt_bert_features: NDArray[np.float32]  # [prompt rows, 1024]
    prompt_bert_rows: NDArray[np.int32]  # [p]
    prompt_tokens: NDArray[np.int32]  # [tokens]
    top_k: int = DEFAULTS.top_k
    top_p: float = DEFAULTS.top_p
    temperature: float = DEFAULTS.temperature
    repetition_penalty: float = DEFAULTS.repetition_penalty
    seed: int = DEFAULTS.seed
    voice: str = ""  # one with a GPT of its own speaks through that
    phoneme_languages: NDArray[np.int32] | None = None  # [n], places in PHONEME_LANGUAGES
    guard: int = DEFAULTS.guard  # 1: a sentence that goes bad is drawn again
    details: int = Details.NONE  # what the answer's ``drawn`` tells
    # For a stream, which fetches one sentence in chunks:
    first_sentence: int = 0  # index of the first sentence in the caller's whole text
    chunk_tokens: int = 0  # tokens of an answer, at the least; 0 is everything
    drawn_tokens: NDArray[np.int32] | None = None  # of the sentence, which goes on after them
    drawn_attempt: int = 0  # the guard's attempt that drew the last of them
    listener_waits: int = 0  # 1: nothing of the answer has been heard yet; goes before others
    listener_seconds: float = math.inf  # until a listener has nothing left to play
    # What Triton's sequence batcher says of the request.
    sequence: int = 0
    end: bool = True
    owner: str = ""  # the public request, among whose sentences turns are shared
    made_again: bool = False  # the process died that worked on it before; goes before others

    def __post_init__(self) -> None:
        check_counts("PHONEME_COUNTS", self.phoneme_counts, len(self.phonemes), "PHONEMES")
        check_ids("PHONEMES", self.phonemes, PHONEMES)
        check_ids("PROMPT_PHONEMES", self.prompt_phonemes, PHONEMES)
        check_ids("PROMPT_TOKENS", self.prompt_tokens, EOS)
        for prefix, table, rows, ids in (
            ("", self.bert_features, self.bert_rows, self.phonemes),
            ("PROMPT_", self.prompt_bert_features, self.prompt_bert_rows, self.prompt_phonemes),
        ):
            if table.ndim != 2 or table.shape[1] != BERT_DIM:
                raise InvalidRequest.value(
                    f"{prefix}BERT_FEATURES", list(table.shape), f"[rows, {BERT_DIM}]"
                )
            check_ids(f"{prefix}BERT_ROWS", rows, len(table))
            if len(rows) != len(ids):
                raise InvalidRequest.value(
                    f"{prefix}BERT_ROWS", f"{len(rows)} rows", f"{len(ids)}, one a phoneme"
                )
        for name in ("top_k", "top_p", "temperature", "repetition_penalty"):
            check_range(name.upper(), getattr(self, name))
        check_seed(self.seed)
        check_range("GUARD", self.guard)
        if self.details not in tuple(Details):
            raise InvalidRequest.value("DETAILS", self.details, "0, 1 or 2")
        if self.phoneme_languages is not None:
            check_ids("PHONEME_LANGUAGES", self.phoneme_languages, len(PHONEME_LANGUAGES))
            if len(self.phoneme_languages) != len(self.phonemes):
                raise InvalidRequest.value(
                    "PHONEME_LANGUAGES",
                    f"{len(self.phoneme_languages)} entries",
                    f"{len(self.phonemes)}, one a phoneme",
                )
        if not self.listener_seconds >= 0:
            raise InvalidRequest.value("LISTENER_SECONDS", self.listener_seconds, "0 or more")
        if self.chunk_tokens < 0 or (self.in_chunks and self.end):
            raise InvalidRequest.value(
                "CHUNK_TOKENS",
                self.chunk_tokens,
                "1 or more in a sequence that goes on, 0 for a whole answer",
            )
        if self.drawn_tokens is not None:
            check_ids("DRAWN_TOKENS", self.drawn_tokens, EOS)
        if self.first_sentence < 0:
            raise InvalidRequest.value("FIRST_SENTENCE", self.first_sentence, "0 or more")
        if self.in_chunks and len(self.phoneme_counts) != 1:
            raise InvalidRequest.value(
                "PHONEME_COUNTS",
                f"{len(self.phoneme_counts)} sentences",
                "one sentence where it is fetched in chunks",
            )

    @property
    def in_chunks(self) -> bool:
        """Whether its one sentence is fetched in chunks, by further requests of its sequence."""
        return self.chunk_tokens > 0


@dataclasses.dataclass(frozen=True)
class MoreTokens:
    """The next chunk of a sentence whose sequence has started, or the sequence's end."""

    chunk_tokens: int = 0  # tokens of the answer, at the least
    sequence: int = 0
    end: bool = False  # nobody asks any more; the answer holds nothing

    def __post_init__(self) -> None:
        if not self.end and self.chunk_tokens < 1:
            raise InvalidRequest.value("CHUNK_TOKENS", self.chunk_tokens, "1 or more")


@dataclasses.dataclass(frozen=True)
class SemanticResult:
    """Semantic tokens, 25 a second of speech."""

    tokens: NDArray[np.int32]  # [m], all sentences
    token_counts: NDArray[np.int32]  # [sentences]
    is_last: int  # 0: the sentence goes on
    attempt: int = 0  # of the guard, that drew the last token; for ``drawn_attempt``
    drawn: str = ""  # JSON: how each sentence was drawn, with the last chunk; "" if nobody asked


@dataclasses.dataclass(frozen=True)
class MelRequest:
    """Sentences as tokens and phonemes, the reference, and how to solve the flow."""

    tokens: NDArray[np.int32]  # [m], all sentences
    token_counts: NDArray[np.int32]  # [sentences]
    phonemes: NDArray[np.int32]  # [n], all sentences
    phoneme_counts: NDArray[np.int32]  # [sentences]
    prompt_tokens: NDArray[np.int32]  # [t]
    prompt_phonemes: NDArray[np.int32]  # [p]
    reference_spectrum: NDArray[np.float32]  # [704, frames] float32
    reference_mel: NDArray[np.float32]  # [100, frames] float32, scaled to [-1, 1]
    speed: float = DEFAULTS.speed
    sample_steps: int = DEFAULTS.sample_steps
    seed: int = DEFAULTS.seed
    voice: str = ""  # one with a SoVITS of its own speaks through that
    # For a stream, which makes one sentence in several requests:
    first_sentence: int = 0  # index of the first sentence in the caller's whole text
    first_frame: int = 0  # frames of the sentence that are made already
    frame_count: int = 0  # frames to make from there on; 0 is all
    past_mel: NDArray[np.float32] | None = (
        None  # [100, frames] float32, log-mel, the last of those made
    )
    listener_waits: int = 0  # 1: nothing of the answer has been heard yet; goes before others
    listener_seconds: float = math.inf  # until a listener has nothing left to play
    owner: str = ""  # the public request, among whose sentences turns are shared
    made_again: bool = False  # the process died that worked on it before; goes before others

    def __post_init__(self) -> None:
        check_counts("TOKEN_COUNTS", self.token_counts, len(self.tokens), "TOKENS")
        check_counts("PHONEME_COUNTS", self.phoneme_counts, len(self.phonemes), "PHONEMES")
        if len(self.token_counts) != len(self.phoneme_counts):
            raise InvalidRequest.value(
                "TOKEN_COUNTS", self.token_counts.tolist(), "as many sentences as PHONEME_COUNTS"
            )
        check_ids("TOKENS", self.tokens, EOS)
        check_ids("PROMPT_TOKENS", self.prompt_tokens, EOS)
        check_ids("PHONEMES", self.phonemes, PHONEMES)
        check_ids("PROMPT_PHONEMES", self.prompt_phonemes, PHONEMES)
        for name in ("first_sentence", "first_frame", "frame_count"):
            if getattr(self, name) < 0:
                raise InvalidRequest.value(name.upper(), getattr(self, name), "0 or more")
        for name, rows in (("reference_spectrum", STYLE_BINS), ("reference_mel", MEL_CHANNELS)):
            shape = list(getattr(self, name).shape)
            if len(shape) != 2 or shape[0] != rows or shape[1] == 0:
                raise InvalidRequest.value(name.upper(), shape, f"[{rows}, frames]")
        for name in ("prompt_tokens", "prompt_phonemes", "phoneme_counts"):
            if len(getattr(self, name)) == 0:
                raise InvalidRequest.value(name.upper(), "nothing", "at least one entry")
        if not self.listener_seconds >= 0:
            raise InvalidRequest.value("LISTENER_SECONDS", self.listener_seconds, "0 or more")
        check_range("SPEED", self.speed)
        check_range("SAMPLE_STEPS", self.sample_steps)
        check_seed(self.seed)
        if (self.token_counts < 1).any():
            raise InvalidRequest.value(
                "TOKEN_COUNTS", self.token_counts.tolist(), "at least one token a sentence"
            )
        self._check_lengths()
        if self.first_frame and (self.past_mel is None or len(self.token_counts) != 1):
            raise InvalidRequest.value(
                "FIRST_FRAME", self.first_frame, "0, or PAST_MEL and exactly one sentence with it"
            )
        if self.past_mel is not None:
            shape = list(self.past_mel.shape)
            if len(shape) != 2 or shape[0] != MEL_CHANNELS:
                raise InvalidRequest.value("PAST_MEL", shape, f"[{MEL_CHANNELS}, frames]")

    def _check_lengths(self) -> None:
        """InvalidRequest for what is longer than any sentence or reference of the stages."""
        shorter = "split the text into shorter sentences"
        for tensor, counts, most, unit in (
            ("TOKEN_COUNTS", self.token_counts, SENTENCE_TOKENS, "tokens"),
            ("PHONEME_COUNTS", self.phoneme_counts, SENTENCE_PHONEMES, "phonemes"),
        ):
            _check_length(tensor, int(counts.max()), most, f"{unit} in one sentence", shorter)
        shorter = f"give a reference of up to {REFERENCE_MAX_SECONDS:g} s"
        for tensor, length, most, unit in (
            ("PROMPT_TOKENS", len(self.prompt_tokens), _PROMPT_TOKENS, "tokens"),
            ("PROMPT_PHONEMES", len(self.prompt_phonemes), SENTENCE_PHONEMES, "phonemes"),
            ("REFERENCE_SPECTRUM", self.reference_spectrum.shape[1], _SPECTRUM_FRAMES, "frames"),
            ("REFERENCE_MEL", self.reference_mel.shape[1], _MEL_FRAMES, "frames"),
        ):
            _check_length(tensor, length, most, unit, shorter)


def _check_length(tensor: str, length: int, most: int, unit: str, advice: str) -> None:
    if length > most:
        raise InvalidRequest(f"{tensor}: got {length:,} {unit}; allowed: up to {most:,}; {advice}")


@dataclasses.dataclass(frozen=True)
class MelResult:
    """What the vocoder reads."""

    mel: NDArray[np.float32]  # [100, frames] float32, log-mel, all sentences
    mel_counts: NDArray[np.int32]  # [sentences]


@dataclasses.dataclass(frozen=True)
class WaveRequest:
    """The mel of all sentences, and what to do between them."""

    mel: NDArray[np.float32]  # [100, frames] float32, log-mel
    mel_counts: NDArray[np.int32]  # [sentences]
    pauses: NDArray[np.float32] | None = None  # [sentences + 1] seconds
    sample_rate: int = DEFAULTS.sample_rate
    listener_waits: int = 0  # 1: nothing of the answer has been heard yet; goes before others
    listener_seconds: float = math.inf  # until a listener has nothing left to play
    owner: str = ""  # the public request, among whose sentences turns are shared
    made_again: bool = False  # the process died that worked on it before; goes before others

    def __post_init__(self) -> None:
        if self.mel.ndim != 2 or self.mel.shape[0] != MEL_CHANNELS:
            raise InvalidRequest.value("MEL", list(self.mel.shape), f"[{MEL_CHANNELS}, frames]")
        check_counts("MEL_COUNTS", self.mel_counts, self.mel.shape[1], "MEL")
        check_choice("SAMPLE_RATE", self.sample_rate, SAMPLE_RATES)
        if not self.listener_seconds >= 0:
            raise InvalidRequest.value("LISTENER_SECONDS", self.listener_seconds, "0 or more")
        if self.pauses is None:
            return
        # The text's own, which add up, and the usual one at each other place.
        most = MAX_TOTAL_PAUSE + PAUSE_MAX_SECONDS * len(self.pauses)
        in_range = ((self.pauses >= 0) & (self.pauses <= MAX_TOTAL_PAUSE)).all()
        if not in_range or self.pauses.sum() > most or len(self.pauses) != len(self.mel_counts) + 1:
            raise InvalidRequest.value(
                "PAUSES",
                self.pauses.tolist(),
                f"0 to {MAX_TOTAL_PAUSE:g} s, one before the first sentence and one after each, "
                f"{most:g} s in all",
            )


@dataclasses.dataclass(frozen=True)
class WaveResult:
    """The complete answer."""

    audio: NDArray[np.float32]  # [samples], mono, -1 to 1
    sample_rate: int


@dataclasses.dataclass(frozen=True)
class PipelineResult:
    """The whole answer to a :class:`SpeechRequest`, and the outputs of the ensemble."""

    audio: NDArray[np.float32]  # [samples], mono, -1 to 1, at the rate that was asked for
    # For TIMES and REPORT.
    drawn: str  # "" if nobody asked, as the next one
    analysis: str
    mel_counts: NDArray[np.int32]  # [sentences] frames
    pauses: NDArray[np.float32]  # [sentences + 1] seconds
