"""The engine on a model with known logits: company, seeds, ends, failures, the line, stopping."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import queue
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from golden import load_case
from gpt_models import (
    KnownGPT,
    case_request,
    golden_config,
    golden_gpt,
    known_request,
    random_request,
)

from gsv.engine.gpt.engine import Engine, Handle
from gsv.engine.gpt.sequence import SequenceRequest
from gsv.engine.turns import Turn
from gsv.errors import Cancelled, ConfigurationError, GsvError, InvalidRequest, Overloaded

PATIENCE = 60  # seconds after which a test that waits has failed


class Answer:
    """Collects what the engine says about one sequence; must hear its end exactly once."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[tuple[list[int], bool] | BaseException] = queue.SimpleQueue()
        self.chunks: list[list[int]] = []

    def on_tokens(self, tokens: np.ndarray, last: bool) -> None:
        assert tokens.dtype == np.int32
        self.events.put((tokens.tolist(), last))

    def result(self) -> list[int]:
        """All tokens; raises the error that ended the sequence."""
        while True:
            event = self.events.get(timeout=PATIENCE)
            if isinstance(event, BaseException):
                raise event
            self.chunks.append(event[0])
            if event[1]:
                return sum(self.chunks, [])


def submit(engine: Engine, request: SequenceRequest) -> tuple[Answer, Handle]:
    answer = Answer()
    return answer, engine.submit(request, answer.on_tokens, answer.events.put)


@contextlib.contextmanager
def running(model: KnownGPT | None = None, **options: object) -> Iterator[Engine]:
    engine = Engine(model or KnownGPT(), **{"slots": 4, "max_length": 256, **options})
    poison(engine)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def poison(engine: Engine) -> None:
    """Fill the whole cache with NaN: whoever reads what was not written there is found out."""
    for worker in engine._workers.values():
        worker.runner.cache.storage.fill_(torch.nan)


def mixed_requests(count: int) -> list[SequenceRequest]:
    rng = np.random.default_rng(count)
    return [
        known_request(
            rng.integers(0, 50, rng.integers(1, 20)).tolist(),
            rng.integers(0, 16, rng.integers(0, 9)).tolist(),
            sentence=n % 3,
            seed=n,
            top_k=int(rng.integers(1, 18)),
            top_p=float(rng.choice([0.6, 1.0])),
            temperature=float(rng.choice([0.7, 1.3])),
            max_tokens=int(rng.integers(1, 60)),
        )
        for n in range(count)
    ]


def test_together_equals_alone_token_for_token():
    requests = mixed_requests(60)
    with running(slots=1) as engine:
        alone = [engine.generate(request).tolist() for request in requests]
    model = KnownGPT()
    with running(model, slots=7, prefill_limit=3, waiting_limit=100) as engine:
        answers = [submit(engine, request)[0] for request in requests]
        together = [answer.result() for answer in answers]
    assert together == alone
    assert max(model.batches) == 7
    assert len({len(tokens) for tokens in alone}) > 5  # EOS and limits ended them differently


def test_turns_change_no_token():
    """Listeners displace rows, and whole answers pause while first audio is awaited."""
    requests = mixed_requests(60)
    with running(slots=1) as engine:
        alone = [engine.generate(request).tolist() for request in requests]
    rng = np.random.default_rng(1)
    turns = [
        Turn(str(n % 7), first_audio=bool(rng.random() < 0.3), buffered=[1.0, math.inf][n % 2])
        for n in range(60)
    ]
    model = KnownGPT()
    with running(model, slots=5, prefill_limit=2, waiting_limit=100) as engine:
        answers = [
            submit(engine, dataclasses.replace(request, turn=turn))[0]
            for request, turn in zip(requests, turns, strict=True)
        ]
        assert [answer.result() for answer in answers] == alone
    assert len(set(model.batches)) > 3


def test_first_audio_does_not_wait_for_a_whole_answer():
    """Sixty sentences of one owner are there; a listener's sentence is done before one ends."""
    whole = Turn("long")
    with running(slots=2, waiting_limit=100) as engine:
        answers = [
            submit(engine, known_request([n % 50], seed=n, max_tokens=200, turn=whole))[0]
            for n in range(60)
        ]
        listener = known_request([7], max_tokens=5, turn=Turn("short", first_audio=True))
        engine.generate(listener)
        assert engine.stats().running + engine.stats().waiting >= 50
        for answer in answers:
            answer.result()


def test_a_stopped_engine_starts_again():
    request = known_request([3], seed=4)
    with running() as engine:
        first = engine.generate(request).tolist()
        endless, _ = submit(engine, known_request([3], max_tokens=200, seed=4))
        engine.stop()
        with contextlib.suppress(Cancelled):
            endless.result()
        engine.start()
        with pytest.raises(ConfigurationError, match="runs already"):
            engine.start()
        assert engine.generate(request).tolist() == first


def test_a_seed_means_the_same_whatever_the_neighbours():
    request = known_request([1, 2, 3], seed=11, temperature=2.0, top_k=17)
    with running() as engine:
        first = engine.generate(request).tolist()
        neighbours = [submit(engine, other)[0] for other in mixed_requests(3)]
        second = engine.generate(request).tolist()
        other_seed = engine.generate(known_request([1, 2, 3], seed=12, temperature=2.0, top_k=17))
        other_place = engine.generate(
            known_request([1, 2, 3], sentence=1, seed=11, temperature=2.0, top_k=17)
        )
        for neighbour in neighbours:
            neighbour.result()
    assert first == second
    assert first != other_seed.tolist()
    assert first != other_place.tolist()


def test_tokens_come_in_chunks():
    request = known_request([5], seed=3, max_tokens=23)
    with running() as engine:
        whole = engine.generate(request).tolist()
        answer, _ = submit(engine, known_request([5], seed=3, max_tokens=23, chunk_tokens=4))
        assert answer.result() == whole
    assert [len(chunk) for chunk in answer.chunks[:-1]] == [4] * (len(answer.chunks) - 1)


def test_slots_are_returned_and_used_again():
    with running(slots=2, waiting_limit=100) as engine:
        answers = [submit(engine, request)[0] for request in mixed_requests(20)]
        for answer in answers:
            answer.result()
        stats = engine.stats()
    assert (stats.running, stats.waiting) == (0, 0)
    assert stats.counters.finished == stats.counters.prefills == 20
    assert stats.counters.tokens == sum(len(chunk) for a in answers for chunk in a.chunks)
    assert 1 <= stats.batch <= 2


def test_a_full_line_refuses_at_once():
    engine = Engine(
        KnownGPT(), slots=1, waiting_limit=2, max_length=256
    )  # not started: nobody runs
    answers = [submit(engine, known_request([n]))[0] for n in range(3)]
    with pytest.raises(Overloaded, match="3 are waiting"):
        submit(engine, known_request([9]))
    engine.start()
    for answer in answers:
        answer.result()
    engine.stop()


def test_a_cancelled_sequence_leaves_the_others_untouched():
    requests = [known_request([n], seed=n, max_tokens=200) for n in range(4)]
    model = KnownGPT()
    with running(model, slots=1, waiting_limit=9) as engine:
        alone = [engine.generate(request).tolist() for request in requests]
    started = threading.Event()
    with running(model, slots=4, prefill_limit=4) as engine:
        victim = Answer()
        cancel: list[Handle] = []
        last_seen = []

        def on_tokens(tokens: np.ndarray, last: bool) -> None:
            started.wait(PATIENCE)  # holds the engine until the handle is here
            last_seen.append(len(model.batches))
            cancel[0].cancel()

        endless = known_request([40], seed=9, max_tokens=200, chunk_tokens=1)
        cancel.append(engine.submit(endless, on_tokens, victim.events.put))
        others = [submit(engine, request)[0] for request in requests[1:]]
        started.set()
        with pytest.raises(Cancelled):
            victim.result()
        assert [answer.result() for answer in others] == alone[1:]
        assert engine.stats().counters.cancelled == 1
    assert len(last_seen) == 1  # no step gave it another token


def test_a_waiting_sequence_can_be_cancelled():
    engine = Engine(KnownGPT(), slots=1, max_length=256)
    first, _ = submit(engine, known_request([1]))
    second, handle = submit(engine, known_request([2]))
    handle.cancel()
    engine.start()
    with pytest.raises(Cancelled):
        second.result()
    first.result()
    engine.stop()


def test_a_sequence_with_broken_logits_fails_alone():
    requests = [known_request([n], seed=n) for n in range(4)]
    with running() as engine:
        alone = [engine.generate(request).tolist() for request in requests]
    model = KnownGPT()
    model.poisoned = 33
    with running(model, prefill_limit=2, waiting_limit=9) as engine:
        bad, _ = submit(engine, known_request([33, 1]))
        answers = [submit(engine, request)[0] for request in requests]
        with pytest.raises(GsvError, match="not finite at step 0"):
            bad.result()
        assert [answer.result() for answer in answers] == alone
        # The slot that held NaN serves the next one well.
        assert [engine.generate(request).tolist() for request in requests] == alone


def test_a_prompt_that_breaks_prefill_fails_alone():
    requests = [known_request([n], seed=n) for n in range(3)]
    with running() as engine:
        alone = [engine.generate(request).tolist() for request in requests]
    model = KnownGPT()
    model.failing = 44
    engine = Engine(model, slots=4, max_length=256, prefill_limit=4)
    bad, _ = submit(engine, known_request([44]))
    answers = [submit(engine, request)[0] for request in requests]
    engine.start()  # all four are newcomers of the same step
    with pytest.raises(GsvError, match="prefill failed: this prompt can't be embedded"):
        bad.result()
    assert [answer.result() for answer in answers] == alone
    engine.stop()


def test_a_step_that_breaks_is_told_to_everybody_in_it():
    model = KnownGPT()
    engine = Engine(model, slots=2, max_length=256, prefill_limit=2)
    answers = [submit(engine, known_request([n]))[0] for n in range(2)]
    decode = model.decode

    def breaking(*args: torch.Tensor) -> torch.Tensor:
        model.decode = decode
        raise RuntimeError("out of memory")

    model.decode = breaking
    engine.start()
    for answer in answers:
        with pytest.raises(GsvError, match="decoding failed: out of memory"):
            answer.result()
    assert engine.generate(known_request([1])).size  # and the engine goes on
    engine.stop()


def test_a_consumer_that_raises_hurts_only_itself():
    requests = [known_request([n], seed=n, chunk_tokens=2) for n in range(3)]
    with running() as engine:
        alone = [engine.generate(request).tolist() for request in requests]
        told = Answer()

        def on_tokens(tokens: np.ndarray, last: bool) -> None:
            raise ValueError("the pipe is closed")

        engine.submit(known_request([7], chunk_tokens=3), on_tokens, told.events.put)
        assert [engine.generate(request).tolist() for request in requests] == alone
        with pytest.raises(ValueError, match="the pipe is closed"):
            told.result()
        assert told.events.empty()
        assert engine.stats().counters.failed == 1


def test_an_engine_that_breaks_answers_everybody_and_refuses_more():
    engine = Engine(KnownGPT(), slots=1, max_length=256)
    answers = [submit(engine, known_request([n]))[0] for n in range(3)]
    engine._workers[""].scheduler.retire = None  # a fault of ours, outside of what a step expects
    engine.start()
    for answer in answers:
        with pytest.raises(GsvError, match="engine broke"):
            answer.result()
    with pytest.raises(GsvError, match="engine broke"):
        submit(engine, known_request([1]))
    engine.stop()


def test_stopping_answers_everybody():
    engine = Engine(KnownGPT(), slots=1, max_length=256)
    never_started, _ = submit(engine, known_request([1]))
    engine.stop()
    with pytest.raises(Cancelled, match="stopped"):
        never_started.result()
    engine = Engine(KnownGPT(), slots=1, max_length=256)
    first = Answer()
    reached = threading.Event()

    def on_tokens(tokens: np.ndarray, last: bool) -> None:
        reached.set()

    request = known_request([3], max_tokens=200, chunk_tokens=1, seed=4)
    engine.submit(request, on_tokens, first.events.put)
    waiting, _ = submit(engine, known_request([1]))
    engine.start()
    assert reached.wait(PATIENCE)
    engine.stop()
    with pytest.raises(Cancelled, match="stopped"):
        waiting.result()
    with pytest.raises(GsvError, match="stopped"):
        submit(engine, known_request([1]))
    with pytest.raises(GsvError, match="stopped"):
        engine.generate(known_request([1]))
    engine.stop()  # twice does no harm


def test_models_have_lanes_of_their_own():
    other = KnownGPT()
    other.table = other.table.flip(0)
    with running(waiting_limit=50) as engine:
        with pytest.raises(InvalidRequest, match="'mira' is not resident; resident are"):
            submit(engine, known_request([1], model="mira"))
        engine.add_model("mira", other)
        with pytest.raises(ConfigurationError, match="resident already"):
            engine.add_model("mira", other)
        mixed = [
            submit(engine, known_request([4], seed=n // 2, model=("", "mira")[n % 2]))[0]
            for n in range(10)
        ]
        results = [answer.result() for answer in mixed]
        engine.remove_model("mira")
        alone = [engine.generate(known_request([4], seed=n)).tolist() for n in range(5)]
    assert results[0::2] == alone
    assert results[1::2] != alone


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (known_request([50]), "PHONEMES: got 50; allowed: 0 to 49"),
        (known_request([]), "PHONEMES: got none"),
        (known_request([1], [16]), "PROMPT_TOKENS: got 16; allowed: 0 to 15"),
        (known_request([1], [-1]), "PROMPT_TOKENS: got -1"),
        (known_request([1], seed=-1), "SEED: got -1"),
        (known_request([1], top_k=0), "TOP_K: got 0; allowed: 1 to 17"),
        (known_request([1], top_k=18), "TOP_K: got 18"),
        (known_request([1], top_p=0.0), "TOP_P: got 0.0"),
        (known_request([1], top_p=1.1), "TOP_P: got 1.1"),
        (known_request([1], temperature=float("nan")), "TEMPERATURE: got nan"),
        (known_request([1], repetition_penalty=0.9), "REPETITION_PENALTY: got 0.9"),
        (known_request([1], max_tokens=1501), "MAX_TOKENS: got 1501"),
        (known_request([1], chunk_tokens=-1), "chunk_tokens -1"),
        (known_request([1] * 200, max_tokens=100), "exceed the 256 positions"),
    ],
)
def test_bad_requests_are_refused_by_name(request_, message):
    engine = Engine(KnownGPT(), slots=1, max_length=256)
    with pytest.raises(InvalidRequest, match=message):
        submit(engine, request_)


def test_features_must_fit_the_phonemes():
    engine = Engine(KnownGPT(), slots=1, max_length=256)
    good = known_request([1, 2])
    bad = SequenceRequest(good.phonemes, good.bert[:1], good.prompt_tokens, good.params)
    with pytest.raises(InvalidRequest, match=r"BERT_FEATURES: got 'float32 \[1, 2\]'"):
        submit(engine, bad)


@pytest.mark.parametrize("option", [{"slots": 0}, {"waiting_limit": -1}, {"max_length": 5000}])
def test_settings_out_of_range_are_refused(option):
    with pytest.raises(ConfigurationError, match=next(iter(option))):
        Engine(KnownGPT(), **option)


@pytest.mark.golden
def test_the_real_model_reads_nothing_that_was_not_written():
    case = load_case("tiny_t2s_greedy")
    requests = [case_request(case, row, seed=1, max_tokens=50) for row in "abab"]
    engine = Engine(golden_gpt("tiny"), slots=3, max_length=512, prefill_limit=3)
    poison(engine)
    answers = [submit(engine, request)[0] for request in requests]
    engine.start()
    results = [answer.result() for answer in answers]
    assert results[:2] == results[2:]
    engine.stop()


@pytest.mark.golden
def test_two_hundred_random_sequences_alone_and_in_company():
    config = golden_config("tiny")
    rng = np.random.default_rng(8)
    requests = [
        random_request(
            rng,
            config,
            seed=n,
            top_k=int(rng.choice([1, 5, 15, 50])),
            top_p=float(rng.choice([0.8, 1.0])),
            temperature=float(rng.choice([0.7, 1.0, 1.2])),
            max_tokens=int(rng.integers(5, 80)),
        )
        for n in range(200)
    ]
    tokens = []
    for slots in (1, 16):
        options = {"slots": slots, "waiting_limit": 200, "max_length": 256, "prefill_limit": 4}
        with running(golden_gpt("tiny"), **{**options, "prefill_limit": min(4, slots)}) as engine:
            answers = [submit(engine, request)[0] for request in requests]
            tokens.append([answer.result() for answer in answers])
    assert tokens[0] == tokens[1]
    assert sum(len(one) for one in tokens[0]) > 5_000


def test_the_engine_rests_while_all_readers_have_enough():
    is_buffered = threading.Event()
    is_buffered.set()
    leased = dataclasses.replace(known_request([1, 2, 3]), is_buffered=is_buffered.is_set)
    with running() as engine:
        expected = engine.generate(known_request([1, 2, 3])).tolist()
        assert len(expected) > 5
        steps = engine.stats().counters.steps
        answer, _ = submit(engine, leased)
        until = time.monotonic() + PATIENCE
        while engine.stats().counters.prefills < 2:
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(0.2)
        assert engine.stats().counters.steps <= steps + 1
        assert answer.events.empty()
        engine.generate(known_request([7]))
        assert engine.stats().counters.steps > steps + 1
        is_buffered.clear()
        engine.wake()
        assert answer.result() == expected


def test_what_a_sequence_waits_for_its_slot_is_told():
    waits: list[float] = []
    model = KnownGPT()
    with running(model, slots=1, waiting_limit=9, on_wait=waits.append) as engine:
        answers = [submit(engine, known_request([n], seed=n))[0] for n in range(3)]
        for answer in answers:
            answer.result()
    assert len(waits) == 3
    assert all(wait >= 0 for wait in waits)
    assert waits[-1] == max(waits), "the last one has waited for both others"
