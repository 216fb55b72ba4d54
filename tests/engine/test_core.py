"""The life of an engine's thread, with a core that does as it is told."""

from __future__ import annotations

import threading

import pytest
import torch

from gsv.engine.core import EngineThread
from gsv.engine.give_way import GiveWay
from gsv.errors import Cancelled, ConfigurationError, GsvError

WAIT = 30  # seconds; only a failing test waits that long


class Core:
    """Answers pieces of work in order; a piece that is an error is raised."""

    def __init__(self, give_way: GiveWay | None = None) -> None:
        self.thread = EngineThread("test", torch.device("cpu"), self, give_way)
        self.line: list[object] = []
        self.done: list[object] = []
        self.errors: list[GsvError] = []
        self.took = threading.Semaphore(0)

    def submit(self, piece: object) -> None:
        self.thread.submit(lambda: self.line.append(piece))

    def has_work(self) -> bool:
        return bool(self.line)

    def can_rest(self) -> bool:
        return "urgent" not in self.line

    def take_turn(self) -> None:
        with self.thread.changed:
            piece = self.line.pop(0)
        if isinstance(piece, BaseException):
            self.line.append(piece)  # it is still to be answered
            raise piece
        self.done.append(piece)
        self.took.release()

    def abandon(self, error: GsvError) -> None:
        self.errors += [error] * len(self.line)
        self.line.clear()

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self.took.acquire(timeout=WAIT)


def test_work_before_the_start_waits_for_it() -> None:
    core = Core()
    core.submit(1)
    with pytest.raises(GsvError, match="the test engine has not been started"):
        core.thread.require_started()
    core.thread.start()
    core.thread.require_started()
    core.submit(2)
    core.wait(2)
    core.thread.stop()
    assert core.done == [1, 2]


def test_stopping_without_a_start_answers_everybody() -> None:
    core = Core()
    core.submit(1)
    core.thread.stop()
    assert [type(error) for error in core.errors] == [Cancelled]
    with pytest.raises(GsvError, match="has been stopped"):
        core.submit(2)


def test_a_stopped_engine_starts_again_and_a_running_one_does_not() -> None:
    core = Core()
    for count in (1, 2):
        core.thread.start()
        with pytest.raises(ConfigurationError, match="the test engine runs already"):
            core.thread.start()
        core.submit(count)
        core.wait(1)
        core.thread.stop()
        core.thread.stop()  # twice does no harm
    assert core.done == [1, 2]


def test_a_broken_engine_answers_everybody_and_refuses_more() -> None:
    core = Core()
    cause = RuntimeError("a bug")
    core.submit(cause)
    core.submit(2)
    core.thread.start()
    thread = core.thread._thread
    assert thread is not None
    thread.join(WAIT)
    assert [error.__cause__ for error in core.errors] == [cause, cause]
    core.thread.stop()
    for action in (lambda: core.submit(3), core.thread.start):
        with pytest.raises(GsvError, match="the test engine (broke: a bug|runs already)"):
            action()


def test_a_callback_may_stop_its_own_engine() -> None:
    core = Core()
    take = core.take_turn

    def then_stop() -> None:
        take()
        core.thread.stop()

    core.take_turn = then_stop  # type: ignore[method-assign]
    core.submit(1)
    core.submit(2)
    core.thread.start()
    core.wait(1)
    thread = core.thread._thread
    assert thread is not None
    thread.join(WAIT)
    assert (core.done, len(core.errors)) == ([1], 1)


def test_work_rests_while_a_listener_waits_elsewhere_unless_it_is_urgent() -> None:
    awaited, looked = threading.Event(), threading.Semaphore(0)

    def look() -> bool:
        looked.release()
        return awaited.is_set()

    core = Core(GiveWay(look, clock=lambda: 0.0))  # time stands still: the rest has no end
    awaited.set()
    core.thread.start()
    core.submit("whole answer")
    for _ in range(3):
        assert looked.acquire(timeout=WAIT)
    assert core.done == []
    core.submit("urgent")
    core.wait(2)
    core.submit("another")
    for _ in range(3):
        assert looked.acquire(timeout=WAIT)
    assert core.done == ["whole answer", "urgent"]
    awaited.clear()
    core.wait(1)
    assert core.done[-1] == "another"
    core.thread.stop()


def test_an_engine_that_rests_can_be_stopped() -> None:
    looked = threading.Semaphore(0)

    def look() -> bool:
        looked.release()
        return True

    core = Core(GiveWay(look, clock=lambda: 0.0))
    core.thread.start()
    core.submit("whole answer")
    assert looked.acquire(timeout=WAIT)
    core.thread.stop()
    assert [type(error) for error in core.errors] == [Cancelled]
    assert core.done == []
