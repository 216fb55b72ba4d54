"""How long whole answers rest for listeners who wait for first audio."""

from __future__ import annotations

import pytest

from gsv.engine.give_way import MOST_SECONDS, SHARE, GiveWay

LOOK = 0.01  # seconds between looks


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def rested(give_way: GiveWay, clock: Clock, seconds: float, *, able: bool = True) -> float:
    """Seconds of rest in so many."""
    total = 0.0
    for _ in range(round(seconds / LOOK)):
        total += LOOK * give_way.rests(able=able)
        clock.now += LOOK
    return total


def test_nobody_rests_when_nobody_waits() -> None:
    clock = Clock()
    assert rested(GiveWay(lambda: False, clock), clock, 10) == 0
    assert rested(GiveWay(clock=clock), clock, 10) == 0


def test_a_short_wait_is_rested_whole() -> None:
    clock = Clock()
    waits = [True]
    give_way = GiveWay(lambda: waits[0], clock)
    for _ in range(20):
        waits[0] = True
        assert rested(give_way, clock, 0.1) == pytest.approx(0.1)
        waits[0] = False
        assert rested(give_way, clock, 1.9) == 0


def test_listeners_without_end_cost_a_bounded_share() -> None:
    clock = Clock()
    give_way = GiveWay(lambda: True, clock)
    assert rested(give_way, clock, MOST_SECONDS) == pytest.approx(MOST_SECONDS, abs=2 * LOOK)
    share = rested(give_way, clock, 100) / 100
    assert share == pytest.approx(SHARE / (1 + SHARE), abs=0.02)


def test_urgent_work_and_idle_time_are_no_rest() -> None:
    clock = Clock()
    give_way = GiveWay(lambda: True, clock)
    rested(give_way, clock, 10)
    assert rested(give_way, clock, 2 * MOST_SECONDS / SHARE, able=False) == 0
    assert rested(give_way, clock, MOST_SECONDS) == pytest.approx(MOST_SECONDS, abs=2 * LOOK)
