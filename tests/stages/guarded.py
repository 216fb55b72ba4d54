"""The semantic GPT's stage around a model of known logits, for tests of guarded sentences."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from engine.spoiled import SILENT, SpoiledGPT

from gsv.engine.gpt.aligner import Aligner
from gsv.engine.gpt.engine import Engine
from gsv.engine.gpt.judge import Bounds, BoundsTable
from gsv.stages.messages import SemanticResult
from gsv.stages.semantic_gpt import SemanticGPTStage
from gsv.stages.sentence_list import SentenceList
from gsv.stages.sentence_report import GuardCounts
from gsv.stages.token_sessions import TokenSessions

SILENCE = 40  # silent tokens that are too many
RETRIES = 2


@contextlib.contextmanager
def guarded_stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[SemanticGPTStage]:
    """The stage; nothing of it is made that sentences don't need."""
    made = object.__new__(SemanticGPTStage)
    engine = Engine(SpoiledGPT(), slots=4, max_length=600)
    made.__dict__.update(
        _engine=engine,
        _aligner=(aligner := Aligner(engine.model_of, "cpu")),
        guard_counts=GuardCounts(),
        _max_tokens=400,
        _bounds=BoundsTable({"en": Bounds(20, 33, 60, silence=SILENCE)}),
        _retries=RETRIES,
        _sessions=TokenSessions(),
        _weight_cache=SimpleNamespace(use=lambda voice, then, fail: then("", None)),
    )
    # The model of known logits reads no BERT features; its rows are two wide.
    plain = SentenceList.sequence

    def narrow(self: Any, index: int, **given: Any) -> Any:
        one = plain(self, index, **given)
        return dataclasses.replace(one, bert=one.bert[:, :2])

    monkeypatch.setattr(SentenceList, "sequence", narrow)
    monkeypatch.setattr("gsv.stages.semantic_gpt.silent_tokens", lambda _: frozenset([SILENT]))
    engine.start()
    try:
        yield made
    finally:
        engine.stop()
        aligner.close()


class Reply:
    """Waits for one answer."""

    def __init__(self) -> None:
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def send(self, result: Any, *, final: bool) -> None:
        self._answers.put(result)

    def fail(self, error: BaseException) -> None:
        self._answers.put(error)

    def is_cancelled(self) -> bool:
        return False

    def is_watched(self) -> bool:
        return True

    def wait(self) -> SemanticResult:
        answer = self._answers.get(timeout=60)
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, SemanticResult)
        return answer
