"""How large the next chunk of a stream is."""

from __future__ import annotations

from gsv.engine.chunk_plan import ChunkPlan

PLAN = ChunkPlan(first=50, largest=400)


def test_chunks_double_while_the_buffer_allows() -> None:
    sizes, previous = [], 0
    for _ in range(5):
        previous = PLAN.size(buffered=9.0, previous=previous)
        sizes.append(previous)
    assert sizes == [50, 100, 200, 400, 400]


def test_no_chunk_is_longer_than_what_is_left_to_play() -> None:
    assert PLAN.size(buffered=0.7, previous=50) == 70
    assert PLAN.size(buffered=0.1, previous=200) == 50


def test_a_starved_listener_gets_larger_chunks() -> None:
    assert PLAN.size(buffered=0.0, previous=100) == 200
    assert PLAN.size(buffered=0.0, previous=400) == 400


def test_small_chunks_do_not_stay_small_when_they_come_too_late() -> None:
    assert PLAN.size(buffered=0.3, previous=50, took=0.2) == 50
    assert PLAN.size(buffered=0.3, previous=50, took=0.4) == 100


def test_tokens_cover_the_look_ahead() -> None:
    frames = PLAN.tokens_needed(50, speed=1.0) * 4
    assert 50 + PLAN.look_ahead < frames <= 50 + PLAN.look_ahead + 4
