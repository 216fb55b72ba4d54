"""Who runs: order of admission, bounded line, rows that stay together."""

from __future__ import annotations

import dataclasses
import random

import pytest
from gpt_models import known_request

from gsv.engine.gpt.scheduler import Scheduler
from gsv.engine.gpt.sequence import SamplerOutput, Sequence, Status
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
    with pytest.raises(Overloaded, match=r"0 sentences are running and 3 are waiting"):
        scheduler.add(sequence())
    scheduler.admit()
    with pytest.raises(Overloaded, match=r"2 sentences are running and 1 are waiting"):
        scheduler.add(sequence())


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
    scheduler = Scheduler(slots=8, waiting_limit=100, prefill_limit=8)
    owners: list[Sequence | None] = [None] * 8
    for _ in range(300):
        for _ in range(rng.randrange(4)):
            scheduler.add(sequence())
        first = len(scheduler.running)
        for row, one in enumerate(scheduler.admit().sequences, start=first):
            assert owners[row] is None
            owners[row] = one
        for one in scheduler.running:
            if rng.random() < 0.2:
                one.end(Status.FINISHED)
        for move in scheduler.retire():
            owners[move.target] = owners[move.source]
            owners[move.source] = None
        free = [None] * (8 - len(scheduler.running))
        assert owners == [*scheduler.running, *free]


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
