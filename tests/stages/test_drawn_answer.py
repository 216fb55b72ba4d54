"""The semantic GPT's answer to a text of many sentences: a few of them at once, all in order."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gsv.engine.gpt.alignment import Alignment
from gsv.engine.gpt.judge import BoundsTable
from gsv.engine.gpt.sequence import SamplingParams, SequenceRequest
from gsv.errors import Cancelled, GsvError, Overloaded
from gsv.stages.drawn_answer import DrawnAnswer
from gsv.stages.messages import Details, SemanticRequest, SemanticResult
from gsv.stages.sentence_list import GuardSettings, SentenceList
from gsv.stages.sentence_report import GuardCounts

SENTENCES = 50


class Reply:
    def __init__(self) -> None:
        self.answers: list[Any] = []

    def send(self, result: Any, *, final: bool) -> None:
        assert final
        self.answers.append(result)

    def fail(self, error: BaseException) -> None:
        self.answers.append(error)

    def finish(self) -> None:
        raise AssertionError("a whole answer ends with its result")


@dataclasses.dataclass(eq=False)
class Drawing:
    """A sentence that is with the engine."""

    request: SequenceRequest
    on_tokens: Callable[[np.ndarray, bool], None]
    on_error: Callable[[BaseException], None]
    engine: Engine

    def cancel(self) -> None:
        if self in self.engine.drawings:
            self.engine.drawings.remove(self)
            self.on_error(Cancelled("cancelled by its caller"))

    def end(self) -> None:
        self.engine.drawings.remove(self)
        self.on_tokens(np.array([self.request.sentence] * 2, np.int32), True)


class Engine:
    """Keeps what it is asked for until a test ends it."""

    def __init__(self, limit: int = 1000) -> None:
        self.drawings: list[Drawing] = []
        self.most = 0
        self.limit = limit
        self.broken = False

    def submit(self, request: SequenceRequest, on_tokens: Any, on_error: Any) -> Drawing:
        if self.broken:
            raise GsvError("the engine has been stopped")
        if len(self.drawings) >= self.limit and not request.accepted:
            raise Overloaded("the line is full")
        drawing = Drawing(request, on_tokens, on_error, self)
        self.drawings.append(drawing)
        self.most = max(self.most, len(self.drawings))
        return drawing


class Aligner:
    """Keeps what it is to align until a test ends it."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Any, ...]] = []

    def align(self, *job: Any) -> None:
        self.jobs.append(job)

    def end(self, number: int) -> None:
        sentence, on_aligned, on_error, has_left = self.jobs.pop(number)
        if has_left():
            on_error(Cancelled("the alignment was given up"))
            return
        borders = np.linspace(0, len(sentence.tokens), sentence.own + 1)
        nowhere = np.zeros(0, np.int64)
        on_aligned(Alignment(borders, nowhere, 0.5, nowhere))


def begun(
    engine: Engine,
    at_once: int = 8,
    details: Details = Details.NONE,
    aligner: Aligner | None = None,
) -> tuple[DrawnAnswer, Reply]:
    counts = np.full(SENTENCES, 3, np.int32)
    request = SemanticRequest(
        phonemes=np.arange(3 * SENTENCES, dtype=np.int32),
        phoneme_counts=counts,
        bert_features=np.zeros((1, 1024), np.float32),
        bert_rows=np.zeros(3 * SENTENCES, np.int32),
        prompt_phonemes=np.array([7], np.int32),
        prompt_bert_features=np.zeros((1, 1024), np.float32),
        prompt_bert_rows=np.zeros(1, np.int32),
        prompt_tokens=np.array([9], np.int32),
        guard=0,
        details=details,
    )
    sentences = SentenceList(request, SamplingParams(seed=1), "")
    guards = GuardSettings(BoundsTable(), 2, frozenset())
    answer = DrawnAnswer(reply := Reply(), sentences, guards, aligner, GuardCounts())  # type: ignore[arg-type]
    answer.begin(engine.submit, at_once)
    return answer, reply


def test_a_long_text_is_handed_over_as_there_is_room() -> None:
    engine = Engine()
    _, reply = begun(engine)
    draw = np.random.default_rng(3)
    while engine.drawings:
        assert not reply.answers
        engine.drawings[draw.integers(len(engine.drawings))].end()
    (result,) = reply.answers
    assert isinstance(result, SemanticResult)
    assert result.tokens.tolist() == np.repeat(np.arange(SENTENCES), 2).tolist()
    assert engine.most == 8


def test_a_full_line_refuses_a_newcomer_and_no_answer_that_has_begun() -> None:
    engine = Engine(limit=1)
    _, reply = begun(engine)
    assert [drawing.request.accepted for drawing in engine.drawings] == [False] + [True] * 7
    with pytest.raises(Overloaded):
        begun(engine)
    assert len(engine.drawings) == 8, "nothing is left of the one that was refused"
    engine.limit = 0
    while engine.drawings:
        engine.drawings[0].end()
    assert isinstance(reply.answers[0], SemanticResult)


def test_whoever_leaves_is_answered_once() -> None:
    engine = Engine()
    answer, reply = begun(engine)
    engine.drawings[0].end()
    answer.cancel()
    assert engine.drawings == []
    (error,) = reply.answers
    assert isinstance(error, Cancelled)


def test_who_leaves_while_the_last_one_ends_is_answered_as_well() -> None:
    engine = Engine()
    answer, reply = begun(engine, at_once=1)
    (drawing,) = engine.drawings
    engine.drawings.clear()  # its end is on the way: a cancellation does not reach it
    answer.cancel()
    drawing.on_tokens(np.zeros(1, np.int32), True)
    assert [type(error) for error in reply.answers] == [Cancelled]


def test_an_engine_that_stops_meanwhile_ends_the_answer() -> None:
    engine = Engine()
    _, reply = begun(engine)
    engine.broken = True
    engine.drawings[0].end()
    assert [str(error) for error in reply.answers] == ["the engine has been stopped"]
    assert engine.drawings == []


def test_sentences_are_aligned_as_they_end_and_told_in_order() -> None:
    draw = np.random.default_rng(5)
    for _ in range(20):
        engine, aligner = Engine(), Aligner()
        _, reply = begun(engine, details=Details.TIMES, aligner=aligner)
        aligned = 0
        while engine.drawings or aligner.jobs:
            assert not reply.answers
            of = [*[engine] * bool(engine.drawings), *[aligner] * bool(aligner.jobs)]
            chosen = of[draw.integers(len(of))]
            if chosen is engine:
                engine.drawings[draw.integers(len(engine.drawings))].end()
            else:
                aligner.end(int(draw.integers(len(aligner.jobs))))
                aligned += 1
        (result,) = reply.answers
        assert aligned == SENTENCES
        assert result.tokens.tolist() == np.repeat(np.arange(SENTENCES), 2).tolist()
        told = json.loads(result.drawn)
        assert [entry["borders"][-1] for entry in told] == [2] * SENTENCES
        assert {entry["confidence"] for entry in told} == {0.5}


def test_a_report_needs_no_alignment() -> None:
    engine = Engine()
    _, reply = begun(engine, details=Details.REPORT)
    while engine.drawings:
        engine.drawings[0].end()
    (result,) = reply.answers
    assert [entry["tokens"] for entry in json.loads(result.drawn)] == [2] * SENTENCES


@pytest.mark.parametrize("at", [0, SENTENCES - 1])
def test_whoever_leaves_while_sentences_are_aligned_is_answered_once(at: int) -> None:
    engine, aligner = Engine(), Aligner()
    answer, reply = begun(engine, details=Details.TIMES, aligner=aligner)
    for _ in range(at + 1):
        engine.drawings[0].end()
    answer.cancel()
    while aligner.jobs:
        aligner.end(0)
    assert [type(error) for error in reply.answers] == [Cancelled]
