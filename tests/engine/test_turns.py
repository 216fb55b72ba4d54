"""The policy of turns: classes, fair shares of owners, deadlines, and that nobody starves."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsv.engine.turns import Ticket, Turn, TurnClass, Turns


@dataclasses.dataclass(eq=False)
class Piece:
    """Work of so many units."""

    turn: Turn
    remaining: float = 10.0
    ticket: Ticket | None = None


TURNS = st.builds(
    Turn,
    owner=st.sampled_from(["", "a", "b", "c"]),
    first_audio=st.booleans(),
    buffered=st.sampled_from([math.inf, 0.0, 0.5, 60.0]),
    made_again=st.booleans(),
)
PIECES = st.builds(Piece, turn=TURNS, remaining=st.sampled_from([1.0, 10.0, 100.0]))


def entered(*pieces: Piece, turns: Turns[Piece] | None = None) -> Turns[Piece]:
    turns = turns or Turns()
    for piece in pieces:
        turns.enter(piece)
    return turns


def serve(turns: Turns[Piece], waiting: list[Piece]) -> Piece:
    """Pick a piece and do all its work at once."""
    chosen = turns.pick(waiting)
    waiting.remove(chosen)
    turns.advance(chosen.remaining, seconds=chosen.remaining / 1000)
    turns.leave(chosen)
    return chosen


def test_classes_come_in_order() -> None:
    turns: Turns[Piece] = Turns()
    turns.advance(1000, seconds=1.0)  # a unit takes a millisecond
    whole, far, near, first = (
        Piece(Turn()),
        Piece(Turn(buffered=60.0)),
        Piece(Turn(buffered=0.05)),
        Piece(Turn(first_audio=True)),
    )
    waiting = [whole, far, near, first]
    entered(*waiting, turns=turns)
    assert turns.class_of(far) is TurnClass.WHOLE_ANSWER
    assert [serve(turns, waiting) for _ in range(2)] == [first, near]
    turns.advance(59_900)  # 80 ms are left for 10 ms of work
    assert turns.class_of(far) is TurnClass.DEADLINE


def test_the_earliest_deadline_goes_first() -> None:
    turns: Turns[Piece] = Turns()
    turns.advance(1000, seconds=1.0)
    waiting = [Piece(Turn(buffered=seconds)) for seconds in (0.09, 0.01, 0.05)]
    entered(*waiting, turns=turns)
    by_deadline = [waiting[1], waiting[2], waiting[0]]
    assert [serve(turns, waiting) for _ in range(3)] == by_deadline


@pytest.mark.parametrize("first_audio", [True, False])
def test_a_request_of_sixty_sentences_does_not_stand_before_one_of_one(first_audio: bool) -> None:
    waiting = [Piece(Turn("long", first_audio)) for _ in range(60)]
    turns = entered(*waiting)
    for _ in range(5):
        serve(turns, waiting)
    short = Piece(Turn("short", first_audio))
    turns.enter(short)
    waiting.append(short)
    assert short in [serve(turns, waiting) for _ in range(2)]


def test_owners_take_turns() -> None:
    waiting = [Piece(Turn(owner)) for owner in "aaaabbbbcccc"]
    turns = entered(*waiting)
    served = [serve(turns, waiting).turn.owner for _ in range(12)]
    for begin in range(0, 12, 3):
        assert set(served[begin : begin + 3]) == {"a", "b", "c"}


def test_what_is_made_again_goes_first_within_its_class_and_not_beyond() -> None:
    new, again = Piece(Turn()), Piece(Turn(made_again=True))
    first = Piece(Turn(first_audio=True))
    waiting = [new, again, first]
    turns = entered(*waiting)
    assert [turns.urgent(piece) for piece in waiting] == [False, True, True]
    assert [serve(turns, waiting) for _ in range(3)] == [first, again, new]


def test_short_work_does_not_queue_behind_long_work() -> None:
    long, short = Piece(Turn("a"), 1000.0), Piece(Turn("b"), 10.0)
    waiting = [long, short]
    assert serve(entered(*waiting), waiting) is short


def test_a_returning_owner_has_saved_up_nothing() -> None:
    turns: Turns[Piece] = Turns()
    waiting: list[Piece] = []
    for owner in ("a", "a", "a", "b"):
        waiting.append(Piece(Turn(owner)))
        turns.enter(waiting[-1])
    while waiting:
        serve(turns, waiting)
    waiting = [Piece(Turn(owner)) for owner in ("b", "a", "b", "a")]
    entered(*waiting, turns=turns)
    assert {serve(turns, waiting).turn.owner for _ in range(2)} == {"a", "b"}


@given(st.lists(PIECES, min_size=1, max_size=12), st.integers(2, 8))
@settings(max_examples=200, deadline=None)
def test_nobody_starves(early: list[Piece], patience: int) -> None:
    """However much urgent work comes later: once old, work is picked within the stated bound."""
    turns: Turns[Piece] = Turns(patience=patience)
    waiting = list(early)
    entered(*waiting, turns=turns)
    age = turns.aging * max(piece.remaining for piece in early)
    while turns.clock.now <= age:
        turns.advance(age + 1)
    order = []
    for _ in range(patience * len(early)):
        newcomer = Piece(Turn(first_audio=True, made_again=True), 1.0)
        turns.enter(newcomer)
        waiting.append(newcomer)
        order.append(serve(turns, waiting))
    for older, piece in enumerate(early):
        assert piece in order[: patience * (older + 1)], f"{older} older ones"


@given(st.lists(PIECES, min_size=1, max_size=30))
@settings(max_examples=200, deadline=None)
def test_every_piece_is_picked_once_and_nothing_is_left(pieces: list[Piece]) -> None:
    waiting = list(pieces)
    turns = entered(*waiting)
    served = [serve(turns, waiting) for _ in range(len(pieces))]
    assert {id(piece) for piece in served} == {id(piece) for piece in pieces}
    assert not turns._owners


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([1.0, 5.0, 20.0])), min_size=8))
@settings(max_examples=200, deadline=None)
def test_owners_with_work_get_equal_shares(work: list[tuple[str, float]]) -> None:
    """No owner that has work all along falls behind another by more than one piece of each."""
    waiting = [Piece(Turn(owner), units) for owner, units in work]
    turns = entered(*waiting)
    turns.aging = math.inf  # fairness alone
    largest = max(units for _, units in work)
    done: dict[str, float] = dict.fromkeys("abcd", 0.0)
    while waiting:
        left = {piece.turn.owner for piece in waiting}
        chosen = serve(turns, waiting)
        done[chosen.turn.owner] += chosen.remaining
        for owner in left:
            assert done[chosen.turn.owner] - done[owner] <= 2 * largest


def test_patience_is_counted_for_each_decision() -> None:
    turns: Turns[Piece] = Turns(patience=2)
    old = Piece(Turn(), 1.0)
    turns.enter(old)
    turns.advance(100)
    urgent = Piece(Turn(first_audio=True))
    turns.enter(urgent)
    assert turns.pick([old, urgent], "slot") is urgent
    assert turns.pick([old, urgent], "step") is urgent
    assert turns.pick([old, urgent], "slot") is old
    assert turns.pick([urgent], "step") is urgent
    assert turns.pick([old, urgent], "step") is old


def test_work_must_enter() -> None:
    with pytest.raises(ValueError, match="must enter before"):
        Turns().pick([Piece(Turn())])


def asked(waits: int, seconds: float, *, made_again: bool = False) -> Any:
    return SimpleNamespace(
        owner="id", listener_waits=waits, listener_seconds=seconds, made_again=made_again
    )


def test_a_turn_from_the_wire() -> None:
    assert Turn.of(asked(1, math.inf)) == Turn("id", first_audio=True)
    assert Turn.of(asked(0, 2.0)).has_listener
    assert not Turn.of(asked(0, math.inf)).has_listener
    assert Turn.of(asked(0, math.inf, made_again=True)).made_again


def test_work_that_comes_again_has_its_old_place() -> None:
    first, second = Piece(Turn("a")), Piece(Turn("b"))
    turns = entered(first, second)
    turns.leave(first)
    again = Piece(Turn("a"), remaining=30)
    turns.enter(again, first.ticket)
    assert again.ticket == first.ticket
    assert turns.pick([second, again]) is again
    turns.leave(again)
    newcomer = Piece(Turn("a"), remaining=30)
    turns.enter(newcomer)
    assert turns.pick([second, newcomer]) is second
