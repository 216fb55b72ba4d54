"""A stream whose sentence goes bad after its first chunks have left: what the listener hears."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from engine.spoiled import BAD, PAUSE, SILENT, spoiled_request
from stages.guarded import RETRIES, SILENCE, Reply, guarded_stage
from stages.test_stream import VOCODER, FakeModels, asked

from gsv.engine.chunk_plan import ChunkPlan
from gsv.engine.gpt.judge import NORMAL_STREAK
from gsv.stages.calls import CancelScope, StageCall
from gsv.stages.messages import MelRequest, MelResult, SemanticRequest, SemanticResult, TextResult
from gsv.stages.semantic_gpt import SemanticGPTStage
from gsv.stages.stream import ChunkResult, stream

AT = 60  # the token from which on the sentence may go bad, in its third chunk
PLAN = ChunkPlan(first=80, largest=100)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[SemanticGPTStage]:
    with guarded_stage(monkeypatch) as made:
        yield made


class Models(FakeModels):
    """The semantic GPT's own stage; each mel frame is its token."""

    def __init__(self, stage: SemanticGPTStage, kind: str) -> None:
        super().__init__()
        self._stage = stage
        self._phonemes = spoiled_request(kind, AT).phonemes
        self.heard: list[int] = []  # tokens of the mel requests so far

    def text_frontend(self, call: StageCall[TextResult]) -> TextResult:
        return TextResult(
            phonemes=self._phonemes,
            phoneme_counts=np.array([3], np.int32),
            bert_features=np.zeros((1, 1024), np.float32),
            bert_rows=np.zeros(3, np.int32),
            phoneme_languages=np.ones(3, np.int32),
            pauses=np.zeros(2, np.float32),
            prompt_phonemes=np.zeros(1, np.int32),
            prompt_bert_features=np.zeros((1, 1024), np.float32),
            prompt_bert_rows=np.zeros(1, np.int32),
        )

    def semantic_gpt(self, call: StageCall[SemanticResult]) -> SemanticResult:
        assert call.sequence is not None
        more: dict[str, Any] = {"sequence": call.sequence.id, "end": call.sequence.end}
        if isinstance(call.request, SemanticRequest):
            none = np.zeros(0, np.int32)  # the model of known logits knows no prompt
            prompt = dict.fromkeys(("prompt_tokens", "prompt_phonemes", "prompt_bert_rows"), none)
            more |= {**prompt, "repetition_penalty": 1.0}
        request = type(call.request)(**{**vars(call.request), **more})
        self._stage.submit(request, reply := Reply())
        return reply.wait()

    def sovits_v4(self, call: StageCall[MelResult]) -> MelResult:
        request: MelRequest = call.request
        tokens = request.tokens.tolist()
        assert tokens[: len(self.heard)] == self.heard, "what a chunk was made of is taken back"
        self.heard = tokens
        first, count = request.first_frame, request.frame_count
        frames = np.repeat(request.tokens, 4)[first : first + count if count else None]
        mel = np.tile(frames * 1e-3, (100, 1)).astype(np.float32)
        return MelResult(mel, np.array([mel.shape[1]], np.int32))


def spoken(models: Models, seed: int, plan: ChunkPlan = PLAN) -> Iterator[ChunkResult]:
    request = asked()
    request = type(request)(**{**vars(request), "seed": seed})
    return stream(request, CancelScope(models), plan, VOCODER, clock=lambda: 0.0)


def tokens_in(audio: np.ndarray) -> list[int]:
    """What the samples were made of; joints between frames of different tokens fade."""
    frames = np.round(audio.reshape(-1, 480)[:, 0] * 1e3).astype(int)
    return frames[2::4].tolist()


def steps(stage: SemanticGPTStage) -> int:
    return stage._engine.stats().counters.steps


@pytest.mark.parametrize("kind", ["silence", PAUSE])
def test_nothing_is_heard_twice_and_no_gap_is_longer_than_the_guards_own(
    stage: SemanticGPTStage, kind: str
) -> None:
    ended: Counter[str] = Counter()
    for seed in range(16):
        models, parts, gaps, before = Models(stage, kind), [], [], steps(stage)
        for chunk in spoken(models, seed):
            parts.append(chunk.audio)
            gaps.append(steps(stage) - before)
            before = steps(stage)
        audio = np.concatenate(parts)
        assert len(audio) == len(models.heard) * 4 * 480, "every frame once"
        assert tokens_in(audio) == models.heard, "in order"
        went_bad = models.heard[AT] == BAD
        # Tokens of the longest chunk with what is written ahead of it, and of each drawing that was
        # given up, as many as it takes to see that it is silent.
        chunk_tokens = PLAN.tokens_needed(3 * PLAN.largest + 180, 1.0)
        assert max(gaps) <= chunk_tokens + (RETRIES * SILENCE if went_bad else 0)
        assert len(parts) > 2
        if went_bad:
            silent = models.heard[AT + 1 : AT + 1 + NORMAL_STREAK]
            assert silent == [SILENT] * NORMAL_STREAK
            cut = len(models.heard) == AT + 1 + NORMAL_STREAK
            ended["cut" if cut else "recovered"] += 1
        else:
            ended["good"] += 1
    retries = stage.guard_counts.retries()["silence", "en"]
    stayed_bad = stage.guard_counts.stayed_bad().get(("silence", "en"), 0)
    assert stayed_bad == ended["cut"]
    if kind == PAUSE:
        assert ended["recovered"] > 0
        assert retries > RETRIES * stayed_bad, "some are good after they were drawn again"
    else:
        assert set(ended) == {"good", "cut"}
        assert retries == RETRIES * stayed_bad


@pytest.mark.parametrize("kind", ["silence", PAUSE])
def test_the_same_seed_has_the_same_tokens_in_chunks_of_any_size(
    stage: SemanticGPTStage, kind: str
) -> None:
    """As long as the first chunk is the same, which decides what can be taken back."""
    for seed in range(6):
        found = set()
        for largest in (100, 140, 400):
            models = Models(stage, kind)
            for _ in spoken(models, seed, ChunkPlan(first=80, largest=largest)):
                pass
            found.add(tuple(models.heard))
        assert len(found) == 1
