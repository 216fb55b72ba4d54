"""The guard between the engine and its caller: what goes bad is caught, drawn again, counted."""

from __future__ import annotations

import dataclasses
import itertools
import queue
from collections.abc import Iterator

import numpy as np
import pytest
from spoiled import KINDS, LOOPS, WHOLE, SpoiledGPT, limits, spoiled_request

from gsv.engine.gpt.engine import Engine
from gsv.engine.gpt.guard import (
    Attempt,
    Guard,
    GuardedSequence,
    Outcome,
    best,
    derived_seed,
    submit_guarded,
)
from gsv.engine.gpt.judge import Signal, Verdict
from gsv.engine.gpt.sequence import SequenceRequest
from gsv.errors import Cancelled, GsvError, InvalidRequest, Overloaded

PATIENCE = 60  # seconds after which a test that waits has failed
EXPECTED = {
    **{kind: Signal.LOOP for kind in LOOPS},
    "loop of 1": Signal.RUN,
    "loop of 30": Signal.LOOP,
    "silence": Signal.SILENCE,
    "early end": Signal.TOO_SHORT,
    "endless": Signal.TOO_LONG,
}


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(SpoiledGPT(), slots=6, max_length=500, waiting_limit=200)
    engine.start()
    yield engine
    engine.stop()


class Answer:
    """Collects what a guarded sentence gives; must hear of its end exactly once."""

    def __init__(self) -> None:
        self.portions: list[list[int]] = []
        self.outcome: Outcome | None = None
        self._events: queue.SimpleQueue[object] = queue.SimpleQueue()

    def on_tokens(self, tokens: np.ndarray, last: bool) -> None:
        assert tokens.dtype == np.int32
        self.portions.append(tokens.tolist())
        if last:
            self._events.put(None)

    def on_error(self, error: BaseException) -> None:
        self._events.put(error)

    def on_outcome(self, outcome: Outcome) -> None:
        assert self.outcome is None
        self.outcome = outcome

    def wait(self) -> list[int]:
        event = self._events.get(timeout=PATIENCE)
        assert self._events.empty()
        if isinstance(event, BaseException):
            raise event
        assert self.outcome is not None
        tokens = sum(self.portions, [])
        assert self.outcome.tokens == len(tokens)
        return tokens


def submit(engine: Engine, request: SequenceRequest, **guard: object) -> Answer:
    answer = Answer()
    submit_guarded(
        engine.submit,
        request,
        Guard(**{"limits": limits(), **guard}),
        answer.on_tokens,
        answer.on_error,
        answer.on_outcome,
    )
    return answer


def guarded(engine: Engine, request: SequenceRequest, **guard: object) -> tuple[list[int], Outcome]:
    answer = submit(engine, request, **guard)
    tokens = answer.wait()
    assert answer.outcome is not None
    return tokens, answer.outcome


def seed_where(engine: Engine, kind: str, at: int, choices: list[int]) -> int:
    """A seed whose attempts choose as told at step ``at``: 0 goes well, 1 goes bad."""
    for seed in range(1000):
        drawn = [
            engine.generate(
                dataclasses.replace(
                    request := spoiled_request("none", at, seed=derived_seed(seed, attempt)),
                    params=dataclasses.replace(request.params, max_tokens=at + 1),
                )
            )[at]
            for attempt in range(len(choices))
        ]
        if drawn == choices:
            return seed
    raise AssertionError("no seed chooses so")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
@pytest.mark.parametrize("at", [0, 20])
def test_each_kind_of_trouble_is_caught_and_drawn_again(engine: Engine, kind: str, at: int) -> None:
    seed = seed_where(engine, kind, at, [1, 1, 0])
    tokens, outcome = guarded(engine, spoiled_request(kind, at, seed=seed))
    assert outcome.retries == (EXPECTED[kind],) * 2
    assert outcome.signals == ()
    assert outcome.kept == 2
    assert outcome.seed == derived_seed(seed, 2) != seed
    assert len(tokens) == WHOLE
    # The trouble was found soon: the engine has not written it to the end.
    assert all(len(attempt.tokens) <= 180 for attempt in outcome.attempts)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("none", "early end")])
def test_what_stays_bad_is_cut_before_its_trouble(engine: Engine, kind: str) -> None:
    tokens, outcome = guarded(engine, spoiled_request(kind, 70, always=True), retries=2)
    assert len(outcome.attempts) == 3
    assert outcome.signals == (EXPECTED[kind],)
    most = {"endless": 180, "loop of 30": 71 + 30 + 10}.get(kind, 71 + 8 + 10)
    assert 71 <= len(tokens) <= most


def test_what_stays_too_short_is_kept(engine: Engine) -> None:
    tokens, outcome = guarded(engine, spoiled_request("early end", 20, always=True), retries=1)
    assert outcome.retries == outcome.signals == (Signal.TOO_SHORT,)
    assert len(tokens) == 21


def test_what_stays_bad_is_cut_before_its_trouble_also_with_no_retries(engine: Engine) -> None:
    tokens, outcome = guarded(engine, spoiled_request("silence", 70, always=True), retries=0)
    assert len(outcome.attempts) == 1
    assert len(tokens) == 71 + 10


def test_what_is_drawn_without_chance_is_not_drawn_again(engine: Engine) -> None:
    request = spoiled_request("silence", 70, always=True)
    greedy = dataclasses.replace(request.params, top_k=1)
    tokens, outcome = guarded(engine, dataclasses.replace(request, params=greedy), retries=2)
    assert len(outcome.attempts) == 1
    assert outcome.signals == (Signal.SILENCE,)
    assert len(tokens) == 71 + 10, "it is cut all the same"


@pytest.mark.parametrize("seed", range(5))
def test_a_good_sentence_is_the_engines_own(engine: Engine, seed: int) -> None:
    request = spoiled_request("none", 5, seed=seed)
    tokens, outcome = guarded(engine, request)
    assert tokens == engine.generate(request).tolist()
    assert outcome.retries == ()
    assert outcome.seed == seed


def test_neighbours_keep_their_tokens_to_the_bit(engine: Engine) -> None:
    plain = [spoiled_request("none", 5, seed=seed, sentence=seed % 3) for seed in range(20)]
    alone = [engine.generate(request).tolist() for request in plain]
    bad = [spoiled_request(kind, 20, seed=n) for n, kind in enumerate(KINDS)]
    bad_alone = [guarded(engine, request) for request in bad]
    answers = [
        submit(engine, request)
        for pair in itertools.zip_longest(plain, bad)
        for request in pair
        if request is not None
    ]
    for answer in answers:
        answer.wait()
    together = [a for a in answers]
    order = [r for pair in itertools.zip_longest(plain, bad) for r in pair if r is not None]
    found = {id(r): a for r, a in zip(order, together, strict=True)}
    assert [sum(found[id(r)].portions, []) for r in plain] == alone
    for request, (tokens, outcome) in zip(bad, bad_alone, strict=True):
        answer = found[id(request)]
        assert sum(answer.portions, []) == tokens
        assert answer.outcome is not None
        assert answer.outcome.retries == outcome.retries


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("none", "early end")])
def test_a_stream_is_cut_at_its_last_good_token_and_goes_on(engine: Engine, kind: str) -> None:
    """The third chunk of 25 tokens goes bad."""
    seed = seed_where(engine, kind, 60, [1])
    request = spoiled_request(kind, 60, seed=seed, chunk_tokens=1)
    answer = submit(engine, request, first=25)
    tokens = answer.wait()
    outcome = answer.outcome
    assert outcome is not None
    before = engine.generate(
        dataclasses.replace(request, chunk_tokens=0, params=dataclasses.replace(
            request.params, max_tokens=60))
    ).tolist()  # fmt: skip
    assert tokens[:60] == before
    assert len(answer.portions[0]) == 25
    if kind == "endless":  # too long for being drawn again: what was sent can't be taken back
        assert outcome.signals == (Signal.TOO_LONG,)
        assert len(tokens) <= 180
        return
    # The choice at step 60 has left, so what follows must be trouble again, and is cut off.
    assert outcome.attempts[1].begun_from == outcome.attempts[0].verdict.good
    assert len(tokens) <= 61 + 30 + 18
    for attempt in outcome.attempts:
        sent = attempt.tokens[: attempt.begun_from].tolist()
        assert tokens[: len(sent)] == sent


def test_before_the_first_tokens_leave_a_stream_begins_anew(engine: Engine) -> None:
    seed = seed_where(engine, "loop of 3", 20, [1, 0])
    request = spoiled_request("loop of 3", 20, seed=seed, chunk_tokens=1)
    answer = submit(engine, request, first=60)
    tokens = answer.wait()
    assert answer.outcome is not None
    assert [attempt.begun_from for attempt in answer.outcome.attempts] == [0, 0]
    assert len(tokens) == WHOLE
    assert len(answer.portions[0]) == 60
    assert tokens == guarded(engine, request)[0]  # as a whole answer


@pytest.mark.parametrize("chunk", [1, 2, 7, 25])
@pytest.mark.parametrize("kind", ["none", "loop of 2", "silence", "early end", "endless"])
def test_a_stream_decides_the_same_whatever_its_portions(
    engine: Engine, kind: str, chunk: int
) -> None:
    for seed in range(6):
        reference = guarded(engine, spoiled_request(kind, 40, seed=seed, chunk_tokens=1), first=25)
        request = spoiled_request(kind, 40, seed=seed, chunk_tokens=chunk)
        tokens, outcome = guarded(engine, request, first=25)
        assert tokens == reference[0]
        assert [a.seed for a in outcome.attempts] == [a.seed for a in reference[1].attempts]


def test_a_stream_in_one_chunk_is_the_whole_answer(engine: Engine) -> None:
    for kind, seed in itertools.product(KINDS, range(3)):
        request = spoiled_request(kind, 30, seed=seed, chunk_tokens=1)
        answer = submit(engine, request, first=None)
        tokens = answer.wait()
        assert tokens == guarded(engine, dataclasses.replace(request, chunk_tokens=0))[0]
        assert len(answer.portions) == 1


@pytest.mark.parametrize("kind", ["loop of 4", "silence", "none"])
def test_another_engine_takes_a_sentence_up_where_it_was(engine: Engine, kind: str) -> None:
    """From the tokens that were sent, and the attempt that sent them."""
    for seed in range(4):
        request = spoiled_request(kind, 40, seed=seed, chunk_tokens=5)
        seen: list[tuple[list[int], int]] = []
        tokens: list[int] = []
        done: queue.SimpleQueue[None] = queue.SimpleQueue()
        sequences: list[GuardedSequence] = []

        def on_tokens(
            part: np.ndarray,
            last: bool,
            tokens: list[int] = tokens,
            seen: list[tuple[list[int], int]] = seen,
            done: queue.SimpleQueue[None] = done,
            sequences: list[GuardedSequence] = sequences,
        ) -> None:
            tokens.extend(part.tolist())
            if last:
                done.put(None)
            else:
                seen.append((list(tokens), sequences[0].attempt))

        guard = Guard(limits(), first=10)
        sequence = GuardedSequence(
            engine.submit, request, guard, on_tokens, lambda e: None, lambda o: None
        )
        sequences.append(sequence)
        sequence.start()
        done.get(timeout=PATIENCE)
        for sent, attempt in seen[:: max(1, len(seen) // 5)]:
            again = dataclasses.replace(request, prefix_tokens=np.array(sent, np.int32))
            answer = Answer()
            submit_guarded(
                engine.submit,
                again,
                Guard(limits(), first=10, attempt=attempt),
                answer.on_tokens,
                answer.on_error,
            )
            assert answer._events.get(timeout=PATIENCE) is None
            assert sent + sum(answer.portions, []) == tokens


def test_who_cancels_hears_so_once(engine: Engine) -> None:
    answer = Answer()
    sequence = submit_guarded(
        engine.submit,
        spoiled_request("endless", 0, always=True),
        Guard(limits(), retries=10),
        answer.on_tokens,
        answer.on_error,
        answer.on_outcome,
    )
    sequence.cancel()
    with pytest.raises(Cancelled):
        answer.wait()
    assert answer.portions == []


def test_a_cancelled_sentence_is_not_drawn_again() -> None:
    submitted: list[tuple[SequenceRequest, object, object]] = []

    class Handle:
        cancelled = False

        def cancel(self) -> None:
            self.cancelled = True

    handles: list[Handle] = []

    def fake(request: SequenceRequest, on_tokens: object, on_error: object) -> Handle:
        submitted.append((request, on_tokens, on_error))
        handles.append(Handle())
        return handles[-1]

    answer = Answer()
    sequence = submit_guarded(
        fake, spoiled_request("none"), Guard(limits()), answer.on_tokens, answer.on_error
    )
    sequence.cancel()
    assert handles[0].cancelled
    submitted[0][1](np.full(30, 7, np.int32), False)  # type: ignore[operator]
    assert len(submitted) == 2
    assert handles[1].cancelled
    submitted[1][2](Cancelled("gone"))  # type: ignore[operator]
    submitted[0][2](Cancelled("gone"))  # type: ignore[operator]  # of what was given up
    with pytest.raises(Cancelled):
        answer.wait()


def test_a_retry_keeps_its_place_in_a_full_line() -> None:
    """One slot, nobody may wait: each sentence is drawn again all the same."""
    engine = Engine(SpoiledGPT(), slots=1, max_length=500, waiting_limit=0)
    engine.start()
    try:
        seed = seed_where(engine, "loop of 3", 20, [1, 1, 0])
        bad = submit(engine, spoiled_request("loop of 3", 20, seed=seed))
        with pytest.raises(Overloaded):
            submit(engine, spoiled_request("none"))
        assert len(bad.wait()) == WHOLE
        assert bad.outcome is not None
        assert len(bad.outcome.retries) == 2
    finally:
        engine.stop()


def test_a_retry_that_the_engine_refuses_is_an_error() -> None:
    calls = []

    def fake(request: SequenceRequest, on_tokens: object, on_error: object) -> object:
        if calls:
            raise GsvError("has been stopped")
        calls.append(on_tokens)
        return type("Handle", (), {"cancel": lambda self: None})()

    answer = Answer()
    submit_guarded(
        fake, spoiled_request("none"), Guard(limits()), answer.on_tokens, answer.on_error
    )
    calls[0](np.full(30, 7, np.int32), False)
    with pytest.raises(GsvError, match="stopped"):
        answer.wait()


def test_an_engine_that_stops_ends_the_sentence(engine: Engine) -> None:
    answer = submit(engine, spoiled_request("endless", 0, always=True), retries=10)
    engine.stop()
    with pytest.raises(GsvError):
        answer.wait()


def attempt(good: int, *signals: Signal, tokens: list[int] | None = None) -> Attempt:
    written = np.array(tokens or [1] * good, np.int32)
    return Attempt(0, 0, written, Verdict(signals, len(written), good, 0, 0, 0, 0))


def test_the_rule_by_which_the_best_is_kept() -> None:
    bad = Signal.LOOP
    assert best([attempt(10, bad), attempt(90), attempt(100)], limits()) == 1  # the first good one
    assert best([attempt(10, bad), attempt(80, bad), attempt(180, bad)], limits()) == 1
    assert best([attempt(50, bad), attempt(200, bad)], limits()) == 0  # as far in ratio: earliest
    assert best([attempt(0, bad), attempt(1, bad)], limits()) == 0
    # Of a stream, only what begins with what was sent.
    sent = [5, 6]
    first, second = attempt(3, bad, tokens=[9, 9, 9]), attempt(2, bad, tokens=[5, 6])
    assert best([first, second], limits(), sent) == 1
    assert best([attempt(3, tokens=[5, 6, 7]), second], limits(), sent) == 0


def test_derived_seeds_are_seeds_and_differ() -> None:
    seeds = [derived_seed(seed, n) for seed in (0, 1, 2**63 - 1) for n in range(11)]
    assert len(set(seeds)) == 33
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Of no release may they change: the same request and seed would give other speech.
    assert [derived_seed(1, n) for n in range(3)] == [1, 1227844342346046657, 4533873174211652711]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"retries": 11}, "retries: got 11"),
        ({"first": 0}, "first: got 0"),
        ({"attempt": 3}, "attempt: got 3; allowed: 0 to 2"),
    ],
)
def test_odd_guards_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        Guard(limits(), **wrong)
