"""Admission by what requests cost: characters of text, and a pace that is measured."""

from __future__ import annotations

import pytest

from gsv.errors import InvalidRequest, Overloaded
from gsv.stages.waiting_line import LineLimits, WaitingLine


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_long_texts_fill_the_line_sooner_than_short_ones() -> None:
    line = WaitingLine(LineLimits(running=2, waiting=3, characters=100))
    line.enter(60)
    line.enter(40)
    with pytest.raises(Overloaded, match="2 requests are in work and 0 wait, .* 100 characters"):
        line.enter(1)
    line.leave(60)
    for _ in range(4):
        line.enter(10)
    with pytest.raises(Overloaded, match="2 requests are in work and 3 wait"):
        line.enter(1)


def test_what_can_never_fit_is_the_callers_mistake() -> None:
    with pytest.raises(InvalidRequest, match="TEXT: got '101 characters'; allowed: up to 100"):
        WaitingLine(LineLimits(1, 1, 100)).enter(101)


def test_the_expected_wait_follows_the_pace() -> None:
    line = WaitingLine(LineLimits(1, 0, 1000), clock := Clock())
    with_nothing_measured = "try again in 1 s"
    line.enter(100)
    with pytest.raises(Overloaded, match=with_nothing_measured):
        line.enter(100)
    for _ in range(5):  # 100 characters each 10 s
        line.leave(100)
        clock.now += 10
        line.enter(100)
    with pytest.raises(Overloaded, match="try again in 10 s"):
        line.enter(100)
    with pytest.raises(Overloaded, match="try again in 80 s"):
        line.enter(800)
    clock.now += 61
    with pytest.raises(Overloaded, match=with_nothing_measured):
        line.enter(100)


def test_whoever_did_not_begin_says_nothing_of_the_pace() -> None:
    line = WaitingLine(LineLimits(1, 0, 1000), Clock())
    line.enter(500)
    line.refuse(500)
    line.enter(1000)
    with pytest.raises(Overloaded, match="try again in 1 s"):
        line.enter(0)
