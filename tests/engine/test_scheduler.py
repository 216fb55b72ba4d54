"""Who runs: order of admission, bounded line, rows that stay together."""

from __future__ import annotations

import dataclasses
import random

import pytest
from gpt_models import known_request

from gsv.engine.gpt.scheduler import FOCUS, HOLD_STEPS, Scheduler, SlotMove
from gsv.engine.gpt.sequence import (
    FIRST_AUDIO_TOKENS,
    PlaceInLine,
    SamplerOutput,
    Sequence,
    Status,
)
from gsv.engine.turns import Turn
from gsv.errors import Cancelled, Overloaded


def sequence(number: int = 0, **params: int) -> Sequence:
    return Sequence(known_request([number], **params), lambda *_: None, lambda *_: None)


def test_first_come_first_served_within_the_prefill_limit():
    scheduler = Scheduler(slots=3, waiting_limit=5, prefill_limit=2)
    line = [sequence(n) for n in range(5)]
    for one in line:
        scheduler.add(one)
    assert scheduler.admit().sequences == line[:2]
    assert scheduler.admit().sequences == line[2:3]
    assert scheduler.admit().sequences == []
    assert scheduler.running == line[:3]
    line[0].end(Status.FINISHED)
    scheduler.retire()
    assert scheduler.admit().sequences == line[3:4]


def test_a_full_line_refuses_with_its_length():
    scheduler = Scheduler(slots=2, waiting_limit=1, prefill_limit=2)
    for n in range(3):
        scheduler.add(sequence(n))
    with pytest.raises(Overloaded, match=r"0 sentences are in work and 3 are waiting"):
        scheduler.add(sequence())
    scheduler.admit()
    with pytest.raises(Overloaded, match=r"2 sentences are in work and 1 are waiting"):
        scheduler.add(sequence())


def test_the_sentences_of_an_answer_that_has_begun_take_no_newcomers_place() -> None:
    scheduler = Scheduler(slots=1, waiting_limit=2, prefill_limit=1)
    accepted = dataclasses.replace(known_request([0]), accepted=True)
    for _ in range(5):
        scheduler.add(Sequence(accepted, lambda *_: None, lambda *_: None))
    for n in range(3):
        scheduler.add(sequence(n))
    with pytest.raises(Overloaded, match=r"0 sentences are in work and 3 are waiting"):
        scheduler.add(sequence())
    scheduler.add(Sequence(accepted, lambda *_: None, lambda *_: None))


def test_a_sentence_that_is_drawn_again_keeps_its_place_in_a_full_line() -> None:
    scheduler = Scheduler(slots=1, waiting_limit=2, prefill_limit=1)
    request = dataclasses.replace(known_request([0]), place=PlaceInLine())
    first = Sequence(request, lambda *_: None, lambda *_: None)
    others = [sequence(n) for n in range(1, 4)]
    scheduler.add(first)
    scheduler.admit()
    for one in others[:2]:
        scheduler.add(one)
    with pytest.raises(Overloaded):
        scheduler.add(others[2])
    first.end(Status.CANCELLED)
    again = Sequence(request, lambda *_: None, lambda *_: None)
    scheduler.add(again)
    scheduler.retire()
    assert scheduler.admit().sequences == [again]
    with pytest.raises(Overloaded):
        scheduler.add(others[2])


def test_without_a_line_a_free_slot_is_still_taken():
    scheduler = Scheduler(slots=1, waiting_limit=0, prefill_limit=1)
    scheduler.add(sequence())
    with pytest.raises(Overloaded):
        scheduler.add(sequence())


def test_hungry_while_anybody_waits_has_left_or_wants_tokens():
    is_buffered = True
    request = dataclasses.replace(known_request([1]), is_buffered=lambda: is_buffered)
    sated = Sequence(request, lambda *_: None, lambda *_: None)
    scheduler = Scheduler(slots=1, waiting_limit=2, prefill_limit=1)
    assert not scheduler.has_demand
    scheduler.add(sated)
    assert scheduler.has_demand  # to be read at all
    scheduler.admit()
    assert scheduler.busy
    assert not scheduler.has_demand
    is_buffered = False
    assert scheduler.has_demand
    is_buffered = True
    scheduler.add(sequence())
    assert scheduler.has_demand  # whoever waits needs the slot, so let it be written to its end
    scheduler.waiting.clear()
    sated.cancel()
    assert scheduler.has_demand


def test_it_is_urgent_while_a_listener_wants_tokens_or_somebody_has_left():
    is_buffered = False
    request = dataclasses.replace(
        known_request([1]), turn=Turn(first_audio=True), is_buffered=lambda: is_buffered
    )
    heard = Sequence(request, lambda *_: None, lambda *_: None)
    scheduler = Scheduler(slots=2, waiting_limit=2, prefill_limit=1)
    whole = sequence()
    scheduler.add(whole)
    scheduler.admit()
    assert not scheduler.urgent
    scheduler.add(heard)
    assert scheduler.urgent
    is_buffered = True
    assert not scheduler.urgent
    whole.cancel()
    assert scheduler.urgent


def test_a_sentence_that_is_made_again_is_urgent():
    request = dataclasses.replace(known_request([1]), turn=Turn(made_again=True))
    scheduler = Scheduler(slots=2, waiting_limit=2, prefill_limit=1)
    scheduler.add(Sequence(request, lambda *_: None, lambda *_: None))
    assert scheduler.urgent


def test_cancelled_ones_leave_the_line_at_once():
    scheduler = Scheduler(slots=1, waiting_limit=3, prefill_limit=1)
    running, waiting, other = sequence(), sequence(), sequence()
    for one in (running, waiting, other):
        scheduler.add(one)
    scheduler.admit()
    running.cancel()
    waiting.cancel()
    assert set(scheduler.drop_cancelled()) == {running, waiting}
    assert isinstance(waiting.error, Cancelled)
    assert list(scheduler.waiting) == [other]
    assert scheduler.retire() == [(0, 0, 1)]
    assert scheduler.admit().sequences == [other]


def test_moves_keep_every_row_with_its_sequence():
    # The moves are replayed on a list of owners: after any history row i holds running[i].
    rng = random.Random(0)
    scheduler = Scheduler(slots=8, waiting_limit=1000, prefill_limit=3, headroom=3)
    owners: list[Sequence | None] = [None] * 11

    def replay(moves: list[SlotMove]) -> None:
        for move in moves:
            assert owners[move.source] is not None
            assert move.source == move.target or move.length == owners[move.source].length
            owners[move.target] = owners[move.source]
            owners[move.source] = None

    met = set()
    for _ in range(600):
        for _ in range(rng.randrange(4)):
            scheduler.add(listened() if rng.random() < 0.3 else sequence())
        scheduler.begin_step()
        admitted, first, moves = scheduler.admit()
        replay(moves)
        for row, one in enumerate(admitted, start=first):
            assert owners[row] is None
            owners[row] = one
        assert owners == [*scheduler.running, *[None] * (11 - len(scheduler.running))]
        for one in scheduler.running:
            if rng.random() < 0.15:
                one.end(Status.FINISHED)
        replay(scheduler.retire())
        running = scheduler.running
        assert owners == [*running, *[None] * (11 - len(running))]
        kinds = [one.has_listener for one in running]
        assert kinds == sorted(kinds, reverse=True)
        assert sum(kinds) == scheduler.listeners
        assert len(running) - scheduler.listeners <= 8
        met.add(scheduler.listeners)
    assert len(met) > 3


def listened(**turn: object) -> Sequence:
    request = dataclasses.replace(known_request([1]), turn=Turn(**{"first_audio": True, **turn}))
    return Sequence(request, lambda *_: None, lambda *_: None)


def full_of_whole_answers(waiting: int = 3, **options: object) -> Scheduler:
    scheduler = Scheduler(slots=3, waiting_limit=99, prefill_limit=1, headroom=1, **options)
    for _ in range(3 + waiting):
        scheduler.add(sequence())
    for _ in range(3):
        assert len(scheduler.admit().sequences) == 1
    return scheduler


def test_whole_answers_leave_headroom_and_a_listener_takes_it():
    scheduler = full_of_whole_answers()
    assert scheduler.admit().sequences == []
    newcomer = listened()
    scheduler.add(newcomer)
    displaced = scheduler.running[0]
    admitted, first, moves = scheduler.admit()
    assert (admitted, first, moves) == ([newcomer], 0, [(0, 3, displaced.length)])
    assert scheduler.running[0] is newcomer
    assert scheduler.running[3] is displaced


def test_the_line_is_taken_by_class_and_owners_share():
    scheduler = Scheduler(slots=1, waiting_limit=99, prefill_limit=1)
    line = [sequence(n) for n in range(2)] + [listened(owner="a"), listened(owner="a")]
    line.append(listened(owner="b"))
    for one in line:
        scheduler.add(one)
    order = []
    while scheduler.waiting:
        order += scheduler.admit().sequences
        order[-1].end(Status.FINISHED)
        scheduler.retire()
    assert set(order[:2]) == {line[2], line[4]}
    assert order[2:] == [line[3], line[0], line[1]]


def test_whole_answers_step_more_seldom_while_first_audio_is_awaited():
    scheduler = full_of_whole_answers(rows_cost=True)
    newcomer = listened()
    scheduler.add(newcomer)
    scheduler.begin_step()
    scheduler.admit()
    steps = []
    for _ in range(2 * FOCUS):
        steps.append(len(scheduler.next_rows()))
        scheduler.begin_step()
        assert not scheduler.admit().sequences
    assert steps == ([1] * (FOCUS - 1) + [4]) * 2
    newcomer.tokens += range(FIRST_AUDIO_TOKENS)  # the first chunk can be made
    scheduler.begin_step()
    assert len(scheduler.next_rows()) == 4


def test_where_rows_cost_nothing_all_step_together():
    scheduler = full_of_whole_answers()
    scheduler.add(listened())
    scheduler.begin_step()
    scheduler.admit()
    assert len(scheduler.next_rows()) == 4


def test_prefills_of_whole_answers_wait_for_first_audio_but_not_for_ever():
    scheduler = full_of_whole_answers()
    scheduler.running[0].end(Status.FINISHED)
    scheduler.retire()
    scheduler.add(listened())
    steps = 0
    admitted: list[Sequence] = []
    while not any(not one.has_listener for one in admitted):
        scheduler.begin_step()
        admitted = scheduler.admit().sequences
        steps += 1
    assert steps == HOLD_STEPS


def test_a_sequence_ends_once():
    one = sequence(max_tokens=2)
    one.status = Status.RUNNING
    one.take(SamplerOutput(3, ended=False, healthy=True))
    assert one.status is Status.RUNNING
    one.take(SamplerOutput(4, ended=False, healthy=True))
    assert (one.status, one.tokens) == (Status.FINISHED, [3, 4])  # the limit keeps all tokens
    one.end(Status.CANCELLED, Cancelled("too late"))
    assert (one.status, one.error) == (Status.FINISHED, None)
    other = sequence()
    other.status = Status.RUNNING
    other.take(SamplerOutput(3, ended=True, healthy=True))
    assert (other.status, other.tokens) == (Status.FINISHED, [])
