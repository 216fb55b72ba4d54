"""The answer to a request for mel of many sentences: a few of them at once, all in order."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gsv.engine.flow.planner import Reference
from gsv.engine.flow.request import FlowRequest
from gsv.errors import Cancelled, Overloaded
from gsv.stages.mel_answer import WINDOW_SENTENCES, MelAnswer, MelPart, MelWindow
from gsv.stages.messages import MelRequest, MelResult

SENTENCES = 50
FRAMES = 4


@dataclasses.dataclass(eq=False)
class Step:
    """A chunk that is with the engine."""

    request: FlowRequest
    on_done: Callable[[Tensor], None]
    on_error: Callable[[BaseException], None]
    engine: Engine

    def cancel(self) -> None:
        if self in self.engine.steps:
            self.engine.steps.remove(self)
            self.on_error(Cancelled("cancelled by its caller"))

    def end(self) -> None:
        self.engine.steps.remove(self)
        self.on_done(torch.full((100, FRAMES), float(self.request.sentence)))


class Engine:
    """Keeps windows and chunks until a test ends them."""

    def __init__(self, limit: int = 1000) -> None:
        self.windows: list[MelWindow] = []
        self.steps: list[Step] = []
        self.most = 0
        self.limit = limit

    def encode(self) -> None:
        window = self.windows.pop(0)
        heard = Reference(torch.zeros(2, 1), torch.zeros(100, 1))
        parts = [MelPart(heard, torch.zeros(2, FRAMES)) for _ in window.indices]
        window.answer.start(window, parts)

    def submit(self, request: FlowRequest, on_done: Any, on_error: Any) -> Any:
        if len(self.steps) >= self.limit and not request.accepted:
            raise Overloaded("the line is full")
        self.steps.append(step := Step(request, on_done, on_error, self))
        self.most = max(self.most, len(self.steps))
        return step


class Reply:
    def __init__(self) -> None:
        self.answers: list[Any] = []

    def send(self, result: Any, *, final: bool) -> None:
        self.answers.append(result)

    def fail(self, error: BaseException) -> None:
        self.answers.append(error)

    def finish(self) -> None:
        raise AssertionError("an answer ends with its result")


def begun(engine: Engine, at_once: int, tokens: int = 2) -> tuple[MelAnswer, Reply]:
    request = MelRequest(
        tokens=np.zeros(tokens * SENTENCES, np.int32),
        token_counts=np.full(SENTENCES, tokens, np.int32),
        phonemes=np.zeros(SENTENCES, np.int32),
        phoneme_counts=np.ones(SENTENCES, np.int32),
        prompt_tokens=np.zeros(3, np.int32),
        prompt_phonemes=np.zeros(1, np.int32),
        reference_spectrum=np.zeros((704, 3), np.float32),
        reference_mel=np.zeros((100, 6), np.float32),
        seed=1,
    )
    speaker: Any = types.SimpleNamespace(model=None, request=lambda given: given)
    answer = MelAnswer(request, "", speaker, reply := Reply(), at_once)
    answer.begin(engine.windows.append, engine.submit)
    return answer, reply


@pytest.mark.parametrize("at_once", [1, 4, 16])
def test_a_long_text_is_made_as_there_is_room(at_once: int) -> None:
    engine = Engine()
    _, reply = begun(engine, at_once)
    draw = np.random.default_rng(5)
    while engine.windows or engine.steps:
        assert not reply.answers
        if engine.windows:
            assert len(engine.windows[0].indices) <= WINDOW_SENTENCES
            engine.encode()
        engine.steps[draw.integers(len(engine.steps))].end()
    (result,) = reply.answers
    assert isinstance(result, MelResult)
    assert result.mel_counts.tolist() == [FRAMES] * SENTENCES
    made = result.mel[0].reshape(SENTENCES, FRAMES)
    assert (np.diff(made[:, 0]) > 0).all(), "in order"
    assert engine.most <= at_once


@pytest.mark.parametrize("part", ["chunk", "whole"])
def test_no_memory_is_an_answer_too(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Of a GPU, where mel chunks are put together."""

    def full(*_: object, **__: object) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    engine = Engine()
    _, reply = begun(engine, 8)
    if part == "chunk":

        def no_plan(*_: object, **__: object) -> Iterator[object]:
            yield full()

        monkeypatch.setattr("gsv.stages.mel_answer.sentence_requests", no_plan)
        engine.encode()
    else:
        monkeypatch.setattr("gsv.stages.mel_answer.torch.cat", full)
        while engine.windows or engine.steps:
            engine.encode() if engine.windows else engine.steps[0].end()
    assert [type(error) for error in reply.answers] == [torch.cuda.OutOfMemoryError]


def test_long_sentences_are_encoded_with_less_company() -> None:
    engine = Engine()
    begun(engine, 16, tokens=1500)
    assert len(engine.windows[0].indices) == 3


def test_a_full_line_refuses_a_newcomer_and_no_answer_that_has_begun() -> None:
    engine = Engine(limit=1)
    _, reply = begun(engine, 8)
    engine.encode()
    assert [step.request.accepted for step in engine.steps] == [False] + [True] * 7
    _, refused = begun(engine, 8)
    engine.encode()
    assert [type(error) for error in refused.answers] == [Overloaded]
    assert len(engine.steps) == 8, "nothing is left of the one that was refused"
    engine.limit = 0
    while engine.windows or engine.steps:
        engine.encode() if engine.windows else engine.steps[0].end()
    assert isinstance(reply.answers[0], MelResult)


@pytest.mark.parametrize("ends", [0, 3, 8])
def test_whoever_leaves_is_answered_once(ends: int) -> None:
    engine = Engine()
    answer, reply = begun(engine, 8)
    engine.encode()
    for _ in range(ends):
        engine.steps[0].end()
    answer.cancel()
    for window in engine.windows:  # as the stage does with those that nobody waits for
        window.answer.fail(Cancelled("cancelled by its caller"))
    assert engine.steps == []
    assert [type(error) for error in reply.answers] == [Cancelled]
