"""The semantic GPT's stage guards its sentences, unless the request wants none."""

from __future__ import annotations

import dataclasses
import queue
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "engine"))

from spoiled import SpoiledGPT, spoiled_request  # noqa: E402

from gsv.engine.gpt.engine import Engine  # noqa: E402
from gsv.engine.gpt.judge import Bounds, BoundsTable  # noqa: E402
from gsv.errors import InvalidRequest  # noqa: E402
from gsv.stages.messages import SemanticRequest  # noqa: E402
from gsv.stages.semantic_gpt import SemanticGPTStage  # noqa: E402
from gsv.stages.token_sessions import TokenSessions  # noqa: E402

SILENCE = np.array([2] * 15, np.int32)


@pytest.fixture
def stage() -> Iterator[SemanticGPTStage]:
    """A stage around a model of known logits; nothing else of it is made."""
    made = object.__new__(SemanticGPTStage)
    engine = Engine(SpoiledGPT(), slots=4, max_length=600)
    made.__dict__.update(
        _engine=engine,
        _max_tokens=400,
        _bounds=BoundsTable({"en": Bounds(20, 33, 60, silence=40)}),
        _retries=2,
        _sessions=TokenSessions(),
    )
    engine.start()
    yield made
    engine.stop()


def tokens_of(stage: SemanticGPTStage, seed: int, **options: Any) -> list[int]:
    """What a sentence that may fall silent at its 21st token is answered with."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    reply = SimpleNamespace(send=lambda result, final: answers.put(result), fail=answers.put)
    phonemes = spoiled_request("silence", 20).phonemes
    request = SemanticRequest(
        phonemes=phonemes,
        phoneme_counts=np.array([3], np.int32),
        bert_features=np.zeros((1, 1024), np.float32),
        bert_rows=np.zeros(3, np.int32),
        prompt_phonemes=np.zeros(0, np.int32),
        prompt_bert_features=np.zeros((1, 1024), np.float32),
        prompt_bert_rows=np.zeros(0, np.int32),
        prompt_tokens=np.zeros(0, np.int32),
        repetition_penalty=1.0,
        seed=seed,
        phoneme_languages=np.full(3, 1, np.int32),
        **options,
    )
    stage._begin(request, "", reply, lambda: False)  # type: ignore[arg-type]
    answer = answers.get(timeout=60)
    if isinstance(answer, BaseException):
        raise answer
    tokens: list[int] = answer.tokens.tolist()
    return tokens


@pytest.fixture(autouse=True)
def small_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model of known logits reads no BERT features; its rows are two wide."""
    plain = SemanticGPTStage._sequences

    def narrow(self: Any, *given: Any) -> Any:
        return [dataclasses.replace(one, bert=one.bert[:, :2]) for one in plain(self, *given)]

    monkeypatch.setattr(SemanticGPTStage, "_sequences", narrow)
    monkeypatch.setattr(
        "gsv.stages.semantic_gpt.silent_tokens", lambda _: frozenset(SILENCE.tolist())
    )


def test_a_sentence_that_falls_silent_is_drawn_again(stage: SemanticGPTStage) -> None:
    bare = {seed: tokens_of(stage, seed, guard=0) for seed in range(12)}
    assert {len(tokens) for tokens in bare.values()} == {100, 400}
    for seed, tokens in bare.items():
        guarded = tokens_of(stage, seed)
        if len(tokens) == 100:
            assert guarded == tokens
        else:
            assert len(guarded) in (100, 31)


@pytest.mark.parametrize("odd", [np.array([1, 1], np.int32), np.array([1, 6, 1], np.int32)])
def test_odd_languages_are_refused(stage: SemanticGPTStage, odd: np.ndarray) -> None:
    with pytest.raises((InvalidRequest, TypeError), match="PHONEME_LANGUAGES"):
        SemanticRequest(
            phonemes=np.zeros(3, np.int32),
            phoneme_counts=np.array([3], np.int32),
            bert_features=np.zeros((1, 1024), np.float32),
            bert_rows=np.zeros(3, np.int32),
            prompt_phonemes=np.zeros(0, np.int32),
            prompt_bert_features=np.zeros((1, 1024), np.float32),
            prompt_bert_rows=np.zeros(0, np.int32),
            prompt_tokens=np.zeros(0, np.int32),
            phoneme_languages=odd,
        )
