"""The order of the stages, written once: which model is asked for what, out of which answers.

    TEXT, REFERENCE → text_frontend ∥ reference_encoder → semantic_gpt → sovits_v4 → vocoder → AUDIO

A generator yields the calls that may run at the same time and is sent their answers. Whole answers
(``speech.py``), streams (``stream.py``), benchmarks and tests run these generators, in Triton and
in one process (``offline.py``). The ensemble ``gpt_sovits_v4_pipeline``, for whoever sends Triton
complete requests, is the one other statement of the order, and a test compares the two.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gsv.stages.arrays import split_by_counts
from gsv.stages.calls import SequenceStep, StageCall
from gsv.stages.messages import (
    MelRequest,
    MelResult,
    MoreTokens,
    PipelineResult,
    ReferenceRequest,
    ReferenceResult,
    SemanticRequest,
    SemanticResult,
    SpeechRequest,
    TextRequest,
    TextResult,
    WaveRequest,
    WaveResult,
)

TEXT_FRONTEND = "text_frontend"
REFERENCE_ENCODER = "reference_encoder"
SEMANTIC_GPT = "semantic_gpt"
SOVITS = "sovits_v4"
VOCODER = "vocoder"

Outcome = TypeVar("Outcome")
# Yields calls that may run at the same time; is sent their answers in the same order.
StageCalls = Generator[tuple[StageCall[Any], ...], tuple[Any, ...], Outcome]


@dataclasses.dataclass(frozen=True)
class Listener:
    """How a stream's listener stands, for the order in which stages work.

    Attributes:
        waits: nothing of the answer has been heard yet.
        seconds: until there is nothing left to play.
    """

    waits: bool
    seconds: float


@dataclasses.dataclass(frozen=True)
class MelChunk:
    """A part of one sentence's mel.

    Attributes:
        sentence: its index.
        first_frame: frames of it that are made already.
        frames: to make from there on; 0 is all that the tokens give.
        past: float32 [100, n], log-mel, the last of those made.
    """

    sentence: int
    first_frame: int
    frames: int
    past: NDArray[np.float32]


def prepare(request: SpeechRequest) -> StageCalls[Speech]:
    """Read the text and hear the reference, at the same time."""
    text, reference = yield (
        StageCall(TEXT_FRONTEND, _fill(TextRequest, request), TextResult, also=_analysis(request)),
        StageCall(REFERENCE_ENCODER, _fill(ReferenceRequest, request), ReferenceResult),
    )
    return Speech(request, text, reference)


def whole_answer(request: SpeechRequest) -> StageCalls[PipelineResult]:
    """All sentences through one stage after the other."""
    speech = yield from prepare(request)
    (tokens,) = yield (speech.semantic(),)
    (mel,) = yield (speech.mel(tokens),)
    (wave,) = yield (speech.wave(mel),)
    text = speech.text
    return PipelineResult(wave.audio, tokens.drawn, text.analysis, mel.mel_counts, text.pauses)


def _analysis(request: SpeechRequest) -> tuple[str, ...]:
    return ("analysis",) if request.details else ()


def _drawn(request: SpeechRequest | SemanticRequest) -> tuple[str, ...]:
    return ("drawn",) if request.details else ()


@dataclasses.dataclass(frozen=True)
class Speech:
    """A request with its text read and its reference heard: all that later stages are asked for."""

    request: SpeechRequest
    text: TextResult
    reference: ReferenceResult

    def semantic(self) -> StageCall[SemanticResult]:
        """The tokens of all sentences, by one call of a sequence."""
        asked = _fill(SemanticRequest, self.request, self.text, self.reference)
        first, also = SequenceStep.first(), _drawn(asked)
        return StageCall(SEMANTIC_GPT, asked, SemanticResult, first, also, end_sequence)

    def mel(self, tokens: SemanticResult) -> StageCall[MelResult]:
        """The mel of all sentences."""
        asked = _fill(MelRequest, self.request, self.text, self.reference, tokens)
        return StageCall(SOVITS, asked, MelResult)

    def wave(self, mel: MelResult) -> StageCall[WaveResult]:
        """The samples of the whole answer, with its pauses."""
        return StageCall(VOCODER, _fill(WaveRequest, self.request, self.text, mel), WaveResult)

    @functools.cached_property
    def phonemes(self) -> list[NDArray[np.int32]]:
        """Those of each sentence."""
        return split_by_counts(self.text.phonemes, self.text.phoneme_counts)

    @functools.cached_property
    def bert_rows(self) -> list[NDArray[np.int32]]:
        """Those of each sentence's phonemes."""
        return split_by_counts(self.text.bert_rows, self.text.phoneme_counts)

    @functools.cached_property
    def languages(self) -> list[NDArray[np.int32]]:
        """Those of each sentence's phonemes."""
        return split_by_counts(self.text.phoneme_languages, self.text.phoneme_counts)

    @property
    def sentences(self) -> int:
        """How many there are."""
        return len(self.text.phoneme_counts)

    def sentence(self, index: int) -> SemanticRequest:
        """One sentence for the semantic GPT, with its own BERT rows only, in a sequence."""
        used, own_rows = np.unique(self.bert_rows[index], return_inverse=True)
        phonemes = self.phonemes[index]
        whole = _fill(SemanticRequest, self.request, self.text, self.reference)
        return dataclasses.replace(
            whole,
            phonemes=phonemes,
            phoneme_counts=np.array([len(phonemes)], np.int32),
            bert_features=self.text.bert_features[used],
            bert_rows=own_rows.reshape(-1).astype(np.int32),
            phoneme_languages=self.languages[index],
            first_sentence=index,
            chunk_tokens=1,
            end=False,
        )

    def mel_chunk(
        self, tokens: NDArray[np.int32], chunk: MelChunk, listener: Listener
    ) -> StageCall[MelResult]:
        """A part of one sentence's mel, out of all its ``tokens`` so far."""
        phonemes = self.phonemes[chunk.sentence]
        asked = MelRequest(
            tokens=tokens,
            token_counts=np.array([len(tokens)], np.int32),
            phonemes=phonemes,
            phoneme_counts=np.array([len(phonemes)], np.int32),
            prompt_tokens=self.reference.prompt_tokens,
            prompt_phonemes=self.text.prompt_phonemes,
            reference_spectrum=self.reference.reference_spectrum,
            reference_mel=self.reference.reference_mel,
            speed=self.request.speed,
            sample_steps=self.request.sample_steps,
            seed=self.request.seed,
            voice=self.request.voice,
            first_sentence=chunk.sentence,
            first_frame=chunk.first_frame,
            frame_count=chunk.frames,
            past_mel=chunk.past if chunk.first_frame else None,
            listener_waits=int(listener.waits),
            listener_seconds=listener.seconds,
        )
        return StageCall(SOVITS, asked, MelResult)


def start_sentence(
    request: SemanticRequest,
    sequence: int,
    chunk_tokens: int,
    listener: Listener,
    drawn: NDArray[np.int32],
    attempt: int = 0,
) -> StageCall[SemanticResult]:
    """The first chunk of a sentence's tokens, after those that the guard's ``attempt`` has
    ``drawn`` already."""
    asked = dataclasses.replace(
        request,
        drawn_tokens=drawn if len(drawn) else None,
        drawn_attempt=attempt,
        chunk_tokens=chunk_tokens,
        listener_waits=int(listener.waits),
        listener_seconds=listener.seconds,
    )
    step = SequenceStep(sequence, start=True, end=False)
    return StageCall(SEMANTIC_GPT, asked, SemanticResult, step, ("attempt", *_drawn(request)))


def continue_sentence(
    request: SemanticRequest, sequence: int, chunk_tokens: int
) -> StageCall[SemanticResult]:
    """The next chunk of the tokens of the sentence that ``request`` has begun.

    It keeps the place in the running batch that it has, however its listener stands by now.
    """
    asked = MoreTokens(chunk_tokens)
    step = SequenceStep(sequence, start=False, end=False)
    return StageCall(SEMANTIC_GPT, asked, SemanticResult, step, ("attempt", *_drawn(request)))


def end_sequence(sequence: int) -> StageCall[SemanticResult]:
    """The end of a sequence, whose place in Triton's batcher becomes free."""
    asked = MoreTokens(end=True)
    return StageCall(
        SEMANTIC_GPT, asked, SemanticResult, SequenceStep(sequence, start=False, end=True)
    )


def wave_window(mel: NDArray[np.float32], listener: Listener) -> StageCall[WaveResult]:
    """The samples of mel [100, frames], one window of a stream."""
    asked = WaveRequest(
        mel=mel,
        mel_counts=np.array([mel.shape[1]], np.int32),
        listener_waits=int(listener.waits),
        listener_seconds=listener.seconds,
    )
    return StageCall(VOCODER, asked, WaveResult)


def run(
    calls: StageCalls[Outcome],
    call: Callable[[StageCall[Any]], Any],
    beside: Executor | None = None,
) -> Outcome:
    """Make the calls that a generator yields, those of one step at the same time.

    Args:
        calls: the generator.
        call: makes one.
        beside: threads for all but a step's first; without it threads are started for each step.
    """
    answers: tuple[Any, ...] | None = None
    while True:
        try:
            step = next(calls) if answers is None else calls.send(answers)
        except StopIteration as finished:
            outcome: Outcome = finished.value
            return outcome
        with contextlib.ExitStack() as own:
            pool = beside or own.enter_context(
                ThreadPoolExecutor(max(len(step) - 1, 1), thread_name_prefix="stage-call")
            )
            others = [pool.submit(call, one) for one in step[1:]]
            own.callback(wait, others)
            first = call(step[0])
            answers = (first, *(other.result() for other in others))


def _fill(kind: type[Outcome], *sources: Any) -> Outcome:
    """A request whose fields are those of the same names in earlier requests and answers.

    The stages' names are made for that: what one answers the next one reads under the same name.
    """
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for source in sources:
        for field in dataclasses.fields(source):
            if field.name in names and (value := getattr(source, field.name)) is not None:
                values[field.name] = value
    return kind(**values)
