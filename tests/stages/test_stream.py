"""The stream's orchestration over fake models whose answers can be followed frame by frame."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from gsv.config import VocoderConfig
from gsv.engine.chunk_plan import ChunkPlan
from gsv.errors import Cancelled, GsvError
from gsv.stages.base import Tensors
from gsv.stages.calls import CancelScope
from gsv.stages.speech import Request
from gsv.stages.stream import AHEAD_FRAMES, CHUNK_TOKENS, Result, synthesize

TOKENS = (60, 13, 231)  # of the three sentences
REFERENCE_FRAMES = 70
VOCODER = VocoderConfig()


class FakeModels:
    """Every mel frame carries its sentence and number; the vocoder repeats it 480 times."""

    def __init__(self) -> None:
        self.mel_requests: list[Tensors] = []
        self.cancelled: list[str] = []
        self.fail_at: int | None = None  # the mel request that breaks
        self.running: dict[str, tuple[int, int]] = {}  # being written: tokens so far and in all
        self.written: dict[int, int] = {}  # tokens of each sentence that were handed out

    def __call__(
        self, model: str, tensors: Tensors, outputs: Sequence[str], *, job: str = ""
    ) -> Tensors:
        answer: Tensors = getattr(self, model)(tensors)
        return answer

    def cancel(self, model: str, job: str) -> None:
        self.cancelled.append(model)
        self.running.pop(job, None)

    def text_frontend(self, tensors: Tensors) -> Tensors:
        counts = np.array([5, 6, 7], np.int32)
        return {
            "PHONEMES": np.arange(18, dtype=np.int32),
            "PHONEME_COUNTS": counts,
            "BERT_FEATURES": np.zeros((1, 1024), np.float32),
            "BERT_ROWS": np.zeros(18, np.int32),
            "PHONEME_LANGUAGES": np.ones(18, np.int32),
            "PAUSES": np.array([0.25, 0.1, 0.2, 0.3], np.float32),
            "PROMPT_PHONEMES": np.arange(4, dtype=np.int32),
            "PROMPT_BERT_FEATURES": np.zeros((1, 1024), np.float32),
            "PROMPT_BERT_ROWS": np.zeros(4, np.int32),
        }

    def reference_encoder(self, tensors: Tensors) -> Tensors:
        return {
            "PROMPT_TOKENS": np.arange(30, dtype=np.int32),
            "REFERENCE_SPECTRUM": np.zeros((704, 35), np.float32),
            "REFERENCE_MEL": np.zeros((100, REFERENCE_FRAMES), np.float32),
        }

    def semantic_gpt(self, tensors: Tensors) -> Tensors:
        job, wanted = tensors["JOB"], tensors["CHUNK_TOKENS"]
        if tensors["PORTION"] == 0:
            self.running[job] = (tensors["FIRST_SENTENCE"], 0)
        sentence, begin = self.running[job]
        end = min(begin + wanted, TOKENS[sentence])
        self.running[job] = (sentence, end)
        self.written[sentence] = end
        if end == TOKENS[sentence]:
            del self.running[job]
        ended = np.array([int(end == TOKENS[sentence])], np.int32)
        return {"TOKENS": np.arange(begin, end, dtype=np.int32), "ENDED": ended}

    def sovits_v4(self, tensors: Tensors) -> Tensors:
        if self.fail_at == len(self.mel_requests):
            raise GsvError("the flow broke")
        self.mel_requests.append(tensors)
        first, count = tensors["FIRST_FRAME"], tensors["FRAME_COUNT"]
        total = 4 * len(tensors["TOKENS"])
        end = first + count if count else total
        assert end <= total, "more frames asked for than tokens were written"
        frames = np.arange(first, end, dtype=np.float32) + 1000 * tensors["FIRST_SENTENCE"]
        return {"MEL": np.tile(frames * 1e-4, (100, 1)).astype(np.float32)}

    def vocoder(self, tensors: Tensors) -> Tensors:
        return {"AUDIO": np.repeat(tensors["MEL"][0], 480).astype(np.float32)}


def run(models: FakeModels, plan: ChunkPlan, **options: float) -> list[Result]:
    """All chunks, with a listener whose clock stands still."""
    request = Request(text="Three sentences.", seed=5, **options)
    return list(synthesize(request, CancelScope(models), plan, VOCODER, clock=lambda: 0.0))


def expected() -> np.ndarray:
    """The whole answer: pauses, and every frame of every sentence in order."""
    parts = [np.zeros(12_000)]
    for index, (tokens, pause) in enumerate(zip(TOKENS, (0.1, 0.2, 0.3), strict=True)):
        parts.append(np.repeat((np.arange(4 * tokens) + 1000 * index) * 1e-4, 480))
        parts.append(np.zeros(round(pause * 48_000)))
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.parametrize("first", [0, 10, 50, 75, 1000])
def test_every_frame_comes_once_and_in_order(first: int) -> None:
    chunks = run(FakeModels(), ChunkPlan(first=first))
    audio = np.concatenate([chunk.audio for chunk in chunks])
    np.testing.assert_allclose(audio, expected(), atol=1e-6)
    sentences = [chunk.sentence_index for chunk in chunks]
    assert sentences == sorted(sentences)
    assert set(sentences) == {0, 1, 2}


def test_whole_sentences_are_asked_for_as_the_unary_model_does() -> None:
    models = FakeModels()
    run(models, ChunkPlan(first=0))
    assert len(models.mel_requests) == len(TOKENS)
    for request, tokens in zip(models.mel_requests, TOKENS, strict=True):
        assert len(request["TOKENS"]) == tokens
        assert request["FIRST_FRAME"] == request["FRAME_COUNT"] == 0
        assert "PAST_MEL" not in request


def test_later_chunks_hear_their_own_past() -> None:
    models = FakeModels()
    run(models, ChunkPlan(first=20))
    later = [r for r in models.mel_requests if r["FIRST_FRAME"]]
    assert later
    for request in later:
        first = request["FIRST_FRAME"]
        past = request["PAST_MEL"][0] / 1e-4 - 1000 * request["FIRST_SENTENCE"]
        np.testing.assert_allclose(past, np.arange(max(0, first - 500), first), atol=1e-2)


def test_the_first_chunk_is_short_and_chunks_grow_with_the_buffer() -> None:
    chunks = run(FakeModels(), ChunkPlan(first=20, largest=200))
    sizes = [len(c.audio) for c in chunks if c.sentence_index == 2]
    assert chunks[1].audio.size <= 20 * 480
    assert sizes == sorted(sizes) or sizes[-1] < sizes[-2]
    assert max(sizes) <= (200 + 100) * 480 + 0.3 * 48_000


def test_tokens_are_written_for_the_next_chunk_and_not_further() -> None:
    models, plan = FakeModels(), ChunkPlan(first=20, largest=40)
    chunks = synthesize(
        Request(text="x", seed=5), CancelScope(models), plan, VOCODER, clock=lambda: 0.0
    )
    made = 0
    for chunk in chunks:
        if chunk.sentence_index == 2:
            made += len(chunk.audio) // 480
            written = models.written[2]
            ahead = plan.tokens_needed(plan.largest + AHEAD_FRAMES, 1.0)
            assert written <= made / 4 + ahead + CHUNK_TOKENS
    assert models.written[2] == TOKENS[2]


class Patience:
    """A clock that moves only when somebody waits on it, as on a scope's ``cancelled``."""

    def __init__(self, leaves_after: float = np.inf) -> None:
        self.now = 0.0
        self._leaves_after = leaves_after

    def __call__(self) -> float:
        return self.now

    def is_set(self) -> bool:
        return self.now > self._leaves_after

    def set(self) -> None:
        self._leaves_after = -np.inf

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return self.is_set()


def test_audio_is_not_made_further_ahead_than_the_lead() -> None:
    aging, lead, largest = Patience(), 2.0, 0.5
    scope = CancelScope(FakeModels())
    scope.cancelled = aging  # type: ignore[assignment]
    plan = ChunkPlan.seconds(0.2, largest)
    sent, slack = 0.0, 1.5 * largest + 0.5  # one chunk and a pause
    for chunk in synthesize(Request(text="x"), scope, plan, VOCODER, lead, aging):
        sent += len(chunk.audio) / chunk.sample_rate
        assert sent - aging.now <= lead + slack
    assert aging.now >= sent - lead - slack


def test_a_caller_that_leaves_while_it_catches_up_ends_the_stream() -> None:
    aging = Patience(leaves_after=1.0)
    scope = CancelScope(FakeModels())
    scope.cancelled = aging  # type: ignore[assignment]
    with pytest.raises(Cancelled):
        list(synthesize(Request(text="x"), scope, ChunkPlan(first=20), VOCODER, 0.5, aging))


def test_the_first_chunk_goes_before_others() -> None:
    models = FakeModels()
    run(models, ChunkPlan(first=20))
    waits = [request["LISTENER_WAITS"] for request in models.mel_requests]
    assert waits == [1] + [0] * (len(waits) - 1)


def test_later_chunks_tell_how_long_the_listener_can_wait() -> None:
    models = FakeModels()
    chunks = run(models, ChunkPlan(first=20))
    played = np.cumsum([0.0] + [len(chunk.audio) / chunk.sample_rate for chunk in chunks])
    told = [request["LISTENER_SECONDS"] for request in models.mel_requests]
    assert told[0] <= 0.25  # the pause before the first sentence
    assert set(np.round(told, 6)) <= set(np.round(played, 6))
    assert sorted(told) == told


class Meeting(FakeModels):
    """Text and reference wait for each other, as long as a test may take."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = threading.Barrier(2, timeout=10)

    def text_frontend(self, tensors: Tensors) -> Tensors:
        self.barrier.wait()
        return super().text_frontend(tensors)

    def reference_encoder(self, tensors: Tensors) -> Tensors:
        self.barrier.wait()
        return super().reference_encoder(tensors)


def test_text_and_reference_are_asked_for_at_once() -> None:
    run(Meeting(), ChunkPlan(first=20))


def test_a_failure_ends_the_stream_with_its_error_and_stops_the_engine() -> None:
    models = FakeModels()
    models.fail_at = 2
    with pytest.raises(GsvError, match="the flow broke"):
        run(models, ChunkPlan(first=20))
    assert models.running == {}


def test_cancelling_ends_the_stream_and_its_thread() -> None:
    models = FakeModels()
    scope = CancelScope(models)
    stream = synthesize(Request(text="x", seed=1), scope, ChunkPlan(first=20), VOCODER)
    next(stream)
    next(stream)
    scope.cancel()
    with pytest.raises(Cancelled):
        list(stream)
    assert models.running == {}
    assert not [t for t in threading.enumerate() if t.name == "token-feed"]


def test_a_listener_that_closes_the_stream_leaves_nothing_behind() -> None:
    models = FakeModels()
    stream = synthesize(
        Request(text="x", seed=1), CancelScope(models), ChunkPlan(first=20), VOCODER
    )
    next(stream)
    stream.close()
    assert models.running == {}
    assert not [t for t in threading.enumerate() if t.name == "token-feed"]


def test_other_rates_resample_the_stream_without_seams() -> None:
    whole = run(FakeModels(), ChunkPlan(first=0), sample_rate=16_000)
    cut = run(FakeModels(), ChunkPlan(first=20), sample_rate=16_000)
    np.testing.assert_allclose(
        np.concatenate([c.audio for c in cut]),
        np.concatenate([c.audio for c in whole]),
        atol=2e-4,
    )


def test_the_first_chunk_lacks_the_context_of_the_served_vocoder() -> None:
    """What later frames can change waits: more frames for a vocoder that sees further."""
    wide = VocoderConfig(resblock_dilations=((1, 3, 9),) * 3)
    plan = ChunkPlan(first=20)
    for vocoder in (VOCODER, wide):
        made = synthesize(
            Request(text="x", seed=5), CancelScope(FakeModels()), plan, vocoder, clock=lambda: 0.0
        )
        first = next(chunk for chunk in made if chunk.audio.any() or len(chunk.audio) != 12_000)
        made.close()  # type: ignore[attr-defined]
        assert len(first.audio) == (20 - vocoder.context_frames) * 480
