"""The semantic GPT's stage guards its sentences, unless the request wants none."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from engine.spoiled import spoiled_request
from stages.guarded import Reply, guarded_stage

from gsv.errors import Cancelled, GsvError, InvalidRequest
from gsv.stages.messages import Details, MoreTokens, SemanticRequest, SemanticResult
from gsv.stages.semantic_gpt import SemanticGPTStage

AT = 20  # the token after which a sentence may fall silent


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[SemanticGPTStage]:
    with guarded_stage(monkeypatch) as made:
        yield made


def request_of(seed: int, at: int = AT, **options: Any) -> SemanticRequest:
    """A sentence that may fall silent after its token ``at``."""
    return SemanticRequest(
        phonemes=spoiled_request("silence", at).phonemes,
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


def answer_of(stage: SemanticGPTStage, seed: int, **options: Any) -> SemanticResult:
    """What a whole sentence is answered with."""
    stage.submit(request_of(seed, **options), reply := Reply())
    return reply.wait()


def tokens_of(stage: SemanticGPTStage, seed: int, **options: Any) -> list[int]:
    return answer_of(stage, seed, **options).tokens.tolist()


def fetched(
    stage: SemanticGPTStage, seed: int, chunk: int = 10, most: int = 1000, **options: Any
) -> list[SemanticResult]:
    """The chunks of a sentence that is streamed, up to ``most`` of them."""
    asked = request_of(seed, chunk_tokens=chunk, sequence=7, end=False, **options)
    stage.submit(asked, reply := Reply())
    chunks = [reply.wait()]
    while not chunks[-1].is_last and len(chunks) < most:
        stage.submit(MoreTokens(chunk, sequence=7), reply := Reply())
        chunks.append(reply.wait())
    stage.submit(MoreTokens(end=True, sequence=7), reply := Reply())
    reply.wait()
    return chunks


def joined(chunks: list[SemanticResult]) -> list[int]:
    return np.concatenate([chunk.tokens for chunk in chunks]).tolist()


def test_a_sentence_that_falls_silent_is_drawn_again(stage: SemanticGPTStage) -> None:
    bare = {seed: tokens_of(stage, seed, guard=0) for seed in range(12)}
    assert {len(tokens) for tokens in bare.values()} == {100, 400}
    for seed, tokens in bare.items():
        guarded = tokens_of(stage, seed)
        if len(tokens) == 100:
            assert guarded == tokens
        else:
            assert len(guarded) in (100, 31)


def seed_that(stage: SemanticGPTStage, good: bool, at: int = AT) -> int:
    """A seed whose first attempt goes well, or does not."""
    return next(
        seed for seed in range(100) if (len(tokens_of(stage, seed, at=at, guard=0)) == 100) is good
    )


def test_nothing_is_told_that_nobody_asked_for(stage: SemanticGPTStage) -> None:
    assert answer_of(stage, 1).drawn == ""
    assert all(chunk.drawn == "" for chunk in fetched(stage, 1))


@pytest.mark.parametrize("good", [True, False])
def test_how_a_sentence_was_drawn_is_told(stage: SemanticGPTStage, good: bool) -> None:
    seed = seed_that(stage, good)
    answer = answer_of(stage, seed, details=Details.REPORT)
    (told,) = json.loads(answer.drawn)
    assert told["tokens"] == len(answer.tokens)
    assert told["phonemes"] == 3
    assert "borders" not in told
    assert (told["retries"] == []) is good
    assert (told["seed"] == seed) is good
    assert set(told["retries"]) <= {"silence"}
    (bare,) = json.loads(answer_of(stage, seed, details=Details.REPORT, guard=0).drawn)
    assert (bare["retries"], bare["seed"]) == ([], seed)
    assert bare["signals"] == ([] if good else ["silence"]), "it is judged all the same"
    assert (bare["tokens"], bare["expected"]) == (100 if good else 400, 99)
    assert told["drawn"] >= told["tokens"]


def test_borders_are_those_of_what_was_kept(stage: SemanticGPTStage) -> None:
    seed = seed_that(stage, False)
    answer = answer_of(stage, seed, details=Details.TIMES)
    (told,) = json.loads(answer.drawn)
    count = len(answer.tokens)
    expected = [0, *(-(-count * phoneme // 3) for phoneme in (1, 2)), count]
    assert told["borders"] == expected


def test_a_stream_is_told_with_its_last_chunk(stage: SemanticGPTStage) -> None:
    seed = seed_that(stage, True)
    chunks = fetched(stage, seed, details=Details.TIMES)
    assert [chunk.drawn for chunk in chunks[:-1]] == [""] * (len(chunks) - 1)
    (told,) = json.loads(chunks[-1].drawn)
    assert told["borders"][-1] == told["tokens"] == len(joined(chunks)) == 100


def test_a_stream_that_goes_on_elsewhere_keeps_its_attempt(stage: SemanticGPTStage) -> None:
    """The same tokens as on one instance, also where a sentence was drawn again before."""
    seen = set()
    # Trouble before the first chunk has left, after which a sentence begins anew, and later.
    for seed, (at, chunk) in itertools.product(range(6), ((5, 30), (40, 10))):
        chunks = fetched(stage, seed, chunk, at=at)
        for count in range(1, len(chunks)):
            drawn, attempt = joined(chunks[:count]), chunks[count - 1].attempt
            prefix = np.array(drawn, np.int32)
            rest = fetched(stage, seed, chunk, at=at, drawn_tokens=prefix, drawn_attempt=attempt)
            assert drawn + joined(rest) == joined(chunks)
            seen.add(attempt)
    assert len(seen) > 1, "some were drawn again"


def test_the_borders_of_a_stream_that_went_on_elsewhere_are_of_all_its_tokens(
    stage: SemanticGPTStage,
) -> None:
    seed = seed_that(stage, True)
    first = fetched(stage, seed, most=2)
    drawn = np.array(joined(first), np.int32)
    rest = fetched(stage, seed, drawn_tokens=drawn, details=Details.TIMES)
    (told,) = json.loads(rest[-1].drawn)
    assert told["borders"][-1] == told["tokens"] == 100
    assert len(joined(rest)) == 100 - len(drawn)


def test_sentences_are_counted_by_cause_and_language(stage: SemanticGPTStage) -> None:
    bad = seed_that(stage, False)
    assert stage.guard_counts.sentences() == {}  # those above had no guard
    answer_of(stage, seed_that(stage, True))
    (told,) = json.loads(answer_of(stage, bad, details=Details.REPORT).drawn)
    assert stage.guard_counts.sentences() == {"en": 2}
    assert stage.guard_counts.retries() == {("silence", "en"): len(told["retries"])}
    assert sum(stage.guard_counts.stayed_bad().values()) == len(told["signals"])


def test_who_leaves_while_a_sentence_is_aligned_is_answered(
    stage: SemanticGPTStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(*_: Any, **__: Any) -> Any:
        entered.set()
        assert leave.wait(60)
        raise GsvError("not aligned")

    monkeypatch.setattr("gsv.engine.gpt.aligner.align_sentence", slow)
    stage.submit(request_of(1, details=Details.TIMES), first := Reply())
    assert entered.wait(60)
    cancel = stage.submit(request_of(2, details=Details.TIMES), second := Reply())
    assert len(tokens_of(stage, 3)) > 0, "decoding goes on meanwhile"
    cancel()
    leave.set()
    with pytest.raises(GsvError, match="not aligned"):
        first.wait()
    with pytest.raises(Cancelled):
        second.wait()


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
