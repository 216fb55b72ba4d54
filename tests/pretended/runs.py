"""The whole product, once on a pretended GPU and once on the CPU."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import gc
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from pretend_cuda import Log, pretend_cuda
from pretended.waiting import LOADING

from gsv.engine.chunk_plan import ChunkPlan
from gsv.offline import LocalToken, Offline
from gsv.stages.calls import StageCall
from gsv.stages.conditions import GRAPH_SHAPES
from gsv.stages.speech import PublicRequest
from gsv.stages.synthesis import run, whole_answer
from gsv.voices.features import FOLDER

VOICES = ("plain", "tuned", "full")
# Random weights don't know when to end: the guard would draw every sentence again.
OPTIONS: dict[str, Any] = {
    "text": "Hello, 你好。", "seed": 3, "sample_steps": 2, "pause_seconds": 0.0, "guard": 0,
}  # fmt: skip
TOKENS = 24  # where a sentence is cut
DTYPED = ("text_frontend", "reference_encoder", "semantic_gpt", "sovits_v4", "vocoder")

# Fewer shapes are captured than in service: a CPU would spend most of its time on the large ones.
FEWER_SHAPES = {
    "gsv.engine.flow.graphed_estimator.MOST_FRAMES": 2048,
    "gsv.stages.vocoder.CUDA_BATCH_FRAMES": 256,
    "gsv.stages.conditions.GRAPH_SHAPES": tuple(
        s for s in GRAPH_SHAPES if s.rows * s.tokens <= 512
    ),
    "gsv.engine.gpt.prompt_reader.SLOTS_PER_READER": 2,  # two read side by side
}

READER = "gsv.text.reader"

Wave = NDArray[np.float32]


@dataclasses.dataclass
class Run:
    """What the product answered on a pretended GPU, and what was seen of it.

    Attributes:
        alone: whole answers, one after another, by voice.
        together: the same ones at once.
        sentences: streams whose chunks are whole sentences, by voice.
        chunks: the chunks of an ordinary stream, by voice.
        tensors: all that the stages gave for the same request, by voice and name.
        times: of its words, by voice.
        log: of everything but loading.
        captures: graphs captured before the first request, and by the end.
        peaks: most bytes allocated on each GPU.
        left: bytes allocated after everything was closed.
        wrong_current_device: operations from threads that had not chosen the GPU.
    """

    alone: dict[str, Wave]
    together: dict[str, Wave]
    sentences: dict[str, Wave]
    chunks: dict[str, list[Wave]]
    tensors: dict[str, dict[str, Any]]
    times: dict[str, list[dict[str, Any]]]
    log: Log
    captures: tuple[int, int]
    peaks: list[int]
    left: int
    wrong_current_device: int


def settings(dtype: str) -> dict[str, dict[str, str]]:
    """Few slots and short sentences; everything else as served."""
    engine = {"max_tokens": str(TOKENS), "slots": "4", "voice_slots": "2"}
    made = {model: {"dtype": dtype} for model in DTYPED}
    made["semantic_gpt"] |= engine
    return made


def run_pretended(repository: Path, dtype: str, device: str) -> Run:
    """Speak on a GPU that is pretended, with nothing known of the voices beforehand."""
    for voice in (repository.parent / "voices").iterdir():
        shutil.rmtree(voice / FOLDER, ignore_errors=True)
    with ExitStack() as patches, pretend_cuda(loading=LOADING) as machine:
        for name, value in FEWER_SHAPES.items():
            patches.enter_context(mock.patch(name, value))
        # Its warning that a language is missing has a traceback, which pytest keeps, and all models
        # with it.
        patches.enter_context(mock.patch.object(logging.getLogger(READER), "disabled", True))
        with Offline(repository, device, settings(dtype)) as speaker:
            captured = machine.log.captures
            made = _speak(speaker)
        del speaker
        gc.unfreeze()  # the text frontend takes what is there at its start for permanent
        gc.collect()
        return Run(
            *made,
            log=machine.log,
            captures=(captured, machine.log.captures),
            peaks=[usage.peak for usage in machine.usage],
            left=sum(usage.allocated for usage in machine.usage),
            wrong_current_device=machine.wrong_current_device,
        )


@dataclasses.dataclass
class Reference:
    """What the CPU answers.

    Attributes:
        alone: whole answers by voice.
        times: of their words, by voice.
        tensors: what its stages make of the GPU's tensors, by voice and name. In half precision
            another token may fall where two were equally likely, and all behind it is then another
            sentence; from the same tokens the rest can be compared.
    """

    alone: dict[str, Wave]
    times: dict[str, list[dict[str, Any]]]
    tensors: dict[str, dict[str, Any]]


def run_on_cpu(repository: Path, dtype: str, given: dict[str, dict[str, Any]]) -> Reference:
    """Speak on the CPU, and run each of its stages on what the one before it has ``given``."""
    with Offline(repository, settings=settings(dtype)) as speaker:
        return Reference(
            alone={voice: speaker.say(voice=voice, **OPTIONS).audio for voice in VOICES},
            times={voice: _times(speaker, voice) for voice in VOICES},
            tensors={voice: pipeline(speaker, voice, given[voice]) for voice in VOICES},
        )


def pipeline(speaker: Offline, voice: str, given: dict[str, Any] | None = None) -> dict[str, Any]:
    """Every tensor of one answer by name; each stage's inputs are those ``given``, if any are."""
    asked: dict[str, Any] = {}
    made: dict[str, Any] = {}
    token = LocalToken()

    def ask(call: StageCall[Any]) -> Any:
        if given is not None:
            inputs = {name.lower(): given[name] for name in _tensors(call.request)}
            call = dataclasses.replace(call, request=dataclasses.replace(call.request, **inputs))
        answer = speaker.models(call, token)
        asked.update(_tensors(call.request))
        made.update(_tensors(answer))
        return answer

    run(whole_answer(PublicRequest(voice=voice, **OPTIONS).filled()), ask)
    return asked | made


def _tensors(message: Any) -> dict[str, Any]:
    """The fields of a request or an answer by the names of their tensors."""
    return {
        field.name.upper(): getattr(message, field.name) for field in dataclasses.fields(message)
    }


def _speak(speaker: Offline) -> tuple[Any, ...]:
    def say(voice: str) -> Wave:
        return speaker.say(voice=voice, **OPTIONS).audio

    def stream(voice: str) -> list[Wave]:
        return [chunk.audio for chunk in speaker.stream(voice=voice, **OPTIONS)]

    alone = {voice: say(voice) for voice in VOICES}
    with concurrent.futures.ThreadPoolExecutor(2 * len(VOICES)) as pool:
        answers = dict(zip(VOICES, pool.map(say, VOICES), strict=True))
    chunks = {voice: stream(voice) for voice in VOICES}
    with _whole_sentences(speaker):
        sentences = {voice: np.concatenate(stream(voice)) for voice in VOICES}
    tensors = {voice: pipeline(speaker, voice) for voice in VOICES}
    times = {voice: _times(speaker, voice) for voice in VOICES}
    return alone, answers, sentences, chunks, tensors, times


def _times(speaker: Offline, voice: str) -> list[dict[str, Any]]:
    told = speaker.say(voice=voice, outputs=frozenset({"TIMES"}), **OPTIONS).times
    assert told is not None
    words: list[dict[str, Any]] = json.loads(told)
    return words


@contextmanager
def _whole_sentences(speaker: Offline) -> Iterator[None]:
    """Within: streams are cut between sentences only, so that no clock has a say in them."""
    stage = speaker.models._stages["gpt_sovits_v4_stream"]
    usual, stage._plan = stage._plan, ChunkPlan(first=0)
    yield
    stage._plan = usual
