"""The stream's orchestration over fake models whose answers can be followed frame by frame."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import numpy as np
import pytest

from gsv.config import VocoderConfig
from gsv.engine.chunk_plan import ChunkPlan
from gsv.errors import Cancelled, GsvError, SequenceLost, Unreachable
from gsv.stages import token_feed
from gsv.stages.calls import CancelScope, StageCall
from gsv.stages.messages import (
    MelRequest,
    MelResult,
    ReferenceResult,
    SemanticResult,
    SpeechRequest,
    TextResult,
    WaveResult,
)
from gsv.stages.speech import PublicRequest
from gsv.stages.stream import ChunkResult, stream
from gsv.stages.token_feed import AHEAD_FRAMES, SMALLEST_CHUNK

TOKENS = (60, 13, 231)  # of the three sentences
REFERENCE_FRAMES = 70
VOCODER = VocoderConfig()


class FakeToken:
    """One caller's calls; cancelling it ends its sequences, as the stages do."""

    def __init__(self, models: FakeModels) -> None:
        self._models = models
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        self._models.running.clear()

    def await_first_audio(self, *, awaited: bool) -> None:
        self._models.awaited.append((awaited, len(self._models.mel_requests)))

    def release(self) -> None:
        pass


class FakeModels:
    """Every mel frame carries its sentence and number; the vocoder repeats it 480 times."""

    def __init__(self) -> None:
        self.mel_requests: list[MelRequest] = []
        self.fail_at: int | None = None  # the mel request that breaks
        self.running: dict[int, tuple[int, int]] = {}  # sequences: sentence, tokens handed out
        self.written: dict[int, int] = {}  # tokens of each sentence that were handed out
        self.started: list[tuple[int, int]] = []  # sentence, and tokens that it began after
        self.failures: list[BaseException] = []  # of the next calls for tokens
        self.awaited: list[tuple[bool, int]] = []  # first audio; chunks of mel made by then
        self.asked_first: list[int] = []  # tokens that each sentence's first call asked for

    def token(self, request_id: str) -> FakeToken:
        return FakeToken(self)

    def __call__(self, call: StageCall[Any], token: FakeToken) -> Any:
        if token.cancelled and not (call.sequence and call.sequence.end):
            raise Cancelled("told so")
        answer = getattr(self, call.model)(call)
        assert isinstance(answer, call.answer)
        return answer

    def text_frontend(self, call: StageCall[TextResult]) -> TextResult:
        return TextResult(
            phonemes=np.arange(18, dtype=np.int32),
            phoneme_counts=np.array([5, 6, 7], np.int32),
            bert_features=np.zeros((1, 1024), np.float32),
            bert_rows=np.zeros(18, np.int32),
            phoneme_languages=np.ones(18, np.int32),
            pauses=np.array([0.25, 0.1, 0.2, 0.3], np.float32),
            prompt_phonemes=np.arange(4, dtype=np.int32),
            prompt_bert_features=np.zeros((1, 1024), np.float32),
            prompt_bert_rows=np.zeros(4, np.int32),
        )

    def reference_encoder(self, call: StageCall[ReferenceResult]) -> ReferenceResult:
        return ReferenceResult(
            prompt_tokens=np.arange(30, dtype=np.int32),
            reference_spectrum=np.zeros((704, 35), np.float32),
            reference_mel=np.zeros((100, REFERENCE_FRAMES), np.float32),
        )

    def semantic_gpt(self, call: StageCall[SemanticResult]) -> SemanticResult:
        assert call.sequence is not None
        step, request = call.sequence, call.request
        if step.end:
            self.running.pop(step.id, None)
            return SemanticResult(np.zeros(0, np.int32), np.zeros(1, np.int32), 1)
        if self.failures:
            self.running.pop(step.id, None)
            raise self.failures.pop(0)
        if step.start:
            drawn = 0 if request.drawn_tokens is None else len(request.drawn_tokens)
            self.running[step.id] = (request.first_sentence, drawn)
            self.started.append((request.first_sentence, drawn))
            self.asked_first += [request.chunk_tokens] * (drawn == 0)
        sentence, begin = self.running[step.id]
        end = min(begin + request.chunk_tokens, TOKENS[sentence])
        self.running[step.id] = (sentence, end)
        self.written[sentence] = end
        tokens = np.arange(begin, end, dtype=np.int32)
        return SemanticResult(tokens, np.array([len(tokens)]), int(end == TOKENS[sentence]))

    def sovits_v4(self, call: StageCall[MelResult]) -> MelResult:
        request: MelRequest = call.request
        if self.fail_at == len(self.mel_requests):
            raise GsvError("the flow broke")
        self.mel_requests.append(request)
        first, count = request.first_frame, request.frame_count
        total = 4 * len(request.tokens)
        end = first + count if count else total
        assert end <= total, "more frames asked for than tokens were written"
        frames = np.arange(first, end, dtype=np.float32) + 1000 * request.first_sentence
        mel = np.tile(frames * 1e-4, (100, 1)).astype(np.float32)
        return MelResult(mel, np.array([mel.shape[1]], np.int32))

    def vocoder(self, call: StageCall[WaveResult]) -> WaveResult:
        return WaveResult(np.repeat(call.request.mel[0], 480).astype(np.float32), 48_000)


def asked(**options: Any) -> SpeechRequest:
    return PublicRequest(text="Three sentences.", seed=5, **options).filled()


def run(models: FakeModels, plan: ChunkPlan, **options: float) -> list[ChunkResult]:
    """All chunks, with a listener whose clock stands still."""
    return list(stream(asked(**options), CancelScope(models), plan, VOCODER, clock=lambda: 0.0))


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
        assert len(request.tokens) == tokens
        assert request.first_frame == request.frame_count == 0
        assert request.past_mel is None


def test_later_chunks_hear_their_own_past() -> None:
    models = FakeModels()
    run(models, ChunkPlan(first=20))
    later = [r for r in models.mel_requests if r.first_frame]
    assert later
    for request in later:
        first = request.first_frame
        past = request.past_mel[0] / 1e-4 - 1000 * request.first_sentence
        np.testing.assert_allclose(past, np.arange(max(0, first - 500), first), atol=1e-2)


def test_the_first_chunk_is_short_and_chunks_grow_with_the_buffer() -> None:
    chunks = run(FakeModels(), ChunkPlan(first=20, largest=200))
    sizes = [len(c.audio) for c in chunks if c.sentence_index == 2]
    assert chunks[1].audio.size <= 20 * 480
    assert sizes == sorted(sizes) or sizes[-1] < sizes[-2]
    assert max(sizes) <= (200 + 100) * 480 + 0.3 * 48_000


def test_tokens_are_written_for_the_next_chunk_and_not_further() -> None:
    models, plan = FakeModels(), ChunkPlan(first=20, largest=40)
    chunks = stream(asked(), CancelScope(models), plan, VOCODER, clock=lambda: 0.0)
    made = 0
    for chunk in chunks:
        if chunk.sentence_index == 2:
            made += len(chunk.audio) // 480
            written = models.written[2]
            ahead = plan.tokens_needed(plan.largest + AHEAD_FRAMES, 1.0)
            assert written <= made / 4 + ahead + SMALLEST_CHUNK
    assert models.written[2] == TOKENS[2]


@pytest.mark.parametrize(("hold", "beyond"), [(60.0, False), (0.01, True)])
def test_nothing_is_written_beyond_the_first_chunk_for_a_moment(
    monkeypatch: pytest.MonkeyPatch, hold: float, beyond: bool
) -> None:
    monkeypatch.setattr(token_feed, "HOLD_SECONDS", hold)
    models, plan, written = FakeModels(), ChunkPlan(first=20), []
    answer = models.sovits_v4

    def slow(call: StageCall[MelResult]) -> MelResult:
        if not models.mel_requests:
            time.sleep(0.2)  # the feed has time to write what it shouldn't
            written.append(models.written[0])
        return answer(call)

    models.sovits_v4 = slow  # type: ignore[method-assign]
    made = np.concatenate([chunk.audio for chunk in run(models, plan)])
    np.testing.assert_allclose(made, expected(), atol=1e-6)
    needed = plan.tokens_needed(plan.first, 1.0)
    assert written[0] > needed if beyond else written == [needed]


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
    patience, lead, largest = Patience(), 2.0, 0.5
    scope = CancelScope(FakeModels())
    scope.cancelled = patience  # type: ignore[assignment]
    plan = ChunkPlan.seconds(0.2, largest)
    sent, slack = 0.0, 1.5 * largest + 0.5  # one chunk and a pause
    for chunk in stream(asked(), scope, plan, VOCODER, lead, patience):
        sent += len(chunk.audio) / chunk.sample_rate
        assert sent - patience.now <= lead + slack
    assert patience.now >= sent - lead - slack


def test_a_caller_that_leaves_while_it_catches_up_ends_the_stream() -> None:
    patience = Patience(leaves_after=1.0)
    scope = CancelScope(FakeModels())
    scope.cancelled = patience  # type: ignore[assignment]
    with pytest.raises(Cancelled):
        list(stream(asked(), scope, ChunkPlan(first=20), VOCODER, 0.5, patience))


def test_the_first_chunk_goes_before_others() -> None:
    models = FakeModels()
    run(models, ChunkPlan(first=20))
    waits = [request.listener_waits for request in models.mel_requests]
    assert waits == [1] + [0] * (len(waits) - 1)


def test_all_stages_are_told_of_a_listener_until_speech_is_there() -> None:
    models = FakeModels()
    run(models, ChunkPlan(first=20))
    (before, chunks), *after = models.awaited
    assert (before, chunks) == (True, 0)
    assert after[0] == (False, 1), "the pause before the first sentence is not what it waits for"
    assert not any(awaited for awaited, _ in after)


def test_who_gets_no_speech_waits_no_more() -> None:
    models = FakeModels()
    models.fail_at = 0
    with pytest.raises(GsvError):
        run(models, ChunkPlan(first=20))
    assert [awaited for awaited, _ in models.awaited] == [True, False]


def test_later_chunks_tell_how_long_the_listener_can_wait() -> None:
    models = FakeModels()
    chunks = run(models, ChunkPlan(first=20))
    played = np.cumsum([0.0] + [len(chunk.audio) / chunk.sample_rate for chunk in chunks])
    told = [request.listener_seconds for request in models.mel_requests]
    assert told[0] <= 0.25  # the pause before the first sentence
    assert set(np.round(told, 6)) <= set(np.round(played, 6))
    assert sorted(told) == told


class Meeting(FakeModels):
    """Text and reference wait for each other, as long as a test may take."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = threading.Barrier(2, timeout=10)

    def text_frontend(self, call: StageCall[TextResult]) -> TextResult:
        self.barrier.wait()
        return super().text_frontend(call)

    def reference_encoder(self, call: StageCall[ReferenceResult]) -> ReferenceResult:
        self.barrier.wait()
        return super().reference_encoder(call)


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
    made = stream(asked(), scope, ChunkPlan(first=20), VOCODER)
    next(made)
    next(made)
    scope.cancel()
    with pytest.raises(Cancelled):
        list(made)
    assert models.running == {}
    assert not [t for t in threading.enumerate() if t.name == "token-feed"]


def test_a_listener_that_closes_the_stream_leaves_nothing_behind() -> None:
    models = FakeModels()
    made = stream(asked(), CancelScope(models), ChunkPlan(first=20), VOCODER)
    next(made)
    made.close()  # type: ignore[attr-defined]
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


def test_the_first_tokens_are_asked_for_alike_whoever_listens() -> None:
    """By them the guard decides whether a sentence begins anew."""
    clocks = (lambda: 0.0, time.monotonic, iter(range(10**6)).__next__)
    asked_first = set()
    for largest, clock in itertools.product((20, 60, 400), clocks):
        models, plan = FakeModels(), ChunkPlan(first=20, largest=largest)
        for _ in stream(asked(), CancelScope(models), plan, VOCODER, clock=clock):
            pass
        asked_first |= {tuple(models.asked_first)}
    assert asked_first == {(plan.tokens_needed(20, 1.0),) * 3}


def test_the_first_chunk_lacks_the_context_of_the_served_vocoder() -> None:
    """What later frames can change waits: more frames for a vocoder that sees further."""
    wide = VocoderConfig(resblock_dilations=((1, 3, 9),) * 3)
    plan = ChunkPlan(first=20)
    for vocoder in (VOCODER, wide):
        made = stream(asked(), CancelScope(FakeModels()), plan, vocoder, clock=lambda: 0.0)
        first = next(chunk for chunk in made if chunk.audio.any() or len(chunk.audio) != 12_000)
        made.close()  # type: ignore[attr-defined]
        assert len(first.audio) == (20 - vocoder.context_frames) * 480


@pytest.mark.parametrize("lost", [SequenceLost("begun anew"), Unreachable("its process is gone")])
def test_a_sentence_that_lost_its_instance_goes_on_from_its_tokens(lost: BaseException) -> None:
    models, plan = FakeModels(), ChunkPlan(first=20, largest=40)
    chunks = stream(asked(), CancelScope(models), plan, VOCODER, clock=lambda: 0.0)
    parts = []
    for chunk in chunks:
        parts.append(chunk.audio)
        if chunk.sentence_index == 2 and len(models.started) == 3:
            models.failures = [lost, lost]
    np.testing.assert_allclose(np.concatenate(parts), expected(), atol=1e-6)
    assert [sentence for sentence, _ in models.started] == [0, 1, 2, 2]
    assert 0 < models.started[-1][1] < TOKENS[2], "it went on after what was drawn"


def test_an_instance_that_stays_away_ends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gsv.stages.calls.RECOVERY_SECONDS", 0.2)
    models = FakeModels()
    models.failures = [Unreachable("its process is gone") for _ in range(1000)]
    with pytest.raises(Unreachable):
        run(models, ChunkPlan(first=20))


def test_sequences_are_ended() -> None:
    models = FakeModels()
    run(models, ChunkPlan(first=20))
    assert models.running == {}
