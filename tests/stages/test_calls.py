"""Calls between stages: bounded, answered once, and called off when nobody waits."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from gsv.errors import Cancelled, Overloaded
from gsv.stages.base import Tensors
from gsv.stages.calls import CallPool, CancelScope


class FakeModels:
    """Answers every call with its own tensors; a gate holds the answers back."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.cancelled: list[tuple[str, str]] = []
        self.jobs: queue.Queue[str] = queue.Queue()

    def __call__(
        self,
        model: str,
        tensors: Tensors,
        outputs: Sequence[str],
        *,
        job: str = "",
    ) -> Tensors:
        self.jobs.put(job)
        assert self.gate.wait(10)
        if any(name == job for _, name in self.cancelled):
            raise Cancelled("told so")
        return {**tensors, "NUMBER": 0}

    def cancel(self, model: str, job: str) -> None:
        self.cancelled.append((model, job))
        self.gate.set()


class Waiting:
    """A reply that keeps what it gets."""

    def __init__(self) -> None:
        self.answers: queue.Queue[Any] = queue.Queue()

    def send(self, result: Any, *, final: bool) -> None:
        self.answers.put(result)

    def finish(self) -> None:
        self.answers.put("end")

    def fail(self, error: BaseException) -> None:
        self.answers.put(error)


def test_a_full_line_is_refused_at_once_and_empties_again() -> None:
    models = FakeModels()
    pool = CallPool("test", models, threads=1, waiting=1)
    replies = [Waiting() for _ in range(3)]

    def work_for(reply: Waiting) -> Any:
        return lambda scope: reply.send(scope("m", {"X": 1}, ["X"]), final=True)

    for reply in replies[:2]:
        pool.submit(work_for(reply), reply)
    with pytest.raises(Overloaded, match="2 requests"):
        pool.submit(work_for(replies[2]), replies[2])
    models.gate.set()
    for reply in replies[:2]:
        assert reply.answers.get(timeout=10) == {"X": 1, "NUMBER": 0}
    pool.close()


def test_an_error_of_the_work_reaches_the_caller() -> None:
    pool = CallPool("test", FakeModels(), threads=1, waiting=0)
    reply = Waiting()

    def work(scope: CancelScope) -> None:
        raise RuntimeError("broken")

    pool.submit(work, reply)
    error = reply.answers.get(timeout=10)
    assert isinstance(error, RuntimeError)
    pool.close()


def test_cancelling_tells_the_models_under_way_and_refuses_later_calls() -> None:
    models = FakeModels()
    pool = CallPool("test", models, threads=1, waiting=0)
    reply = Waiting()

    def work(scope: CancelScope) -> None:
        scope("ensemble", {}, [], inside=("a", "b"))
        reply.send("not reached", final=True)

    cancel = pool.submit(work, reply)
    job = models.jobs.get(timeout=10)
    cancel()
    assert isinstance(reply.answers.get(timeout=10), Cancelled)
    assert {("a", job), ("b", job)} <= set(models.cancelled)
    pool.close()


def test_a_name_can_be_abandoned_between_calls() -> None:
    models = FakeModels()
    models.gate.set()
    scope = CancelScope(models)
    assert scope("engine", {"X": 1}, ["X"], job="mine") == {"X": 1, "NUMBER": 0}
    assert models.cancelled == []
    scope.abandon("engine", "mine")
    assert models.cancelled == [("engine", "mine")]
