"""Calls between stages: bounded, answered once, and called off when nobody waits."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from typing import Any

import pytest

from gsv.errors import Cancelled, GsvError, Overloaded, Unreachable
from gsv.stages.calls import CallPool, CancelScope, SequenceStep, StageCall
from gsv.stages.waiting_line import LineLimits


@dataclasses.dataclass(frozen=True)
class Echo:
    number: int


class FakeToken:
    def __init__(self, models: FakeModels, request_id: str) -> None:
        self.request_id = request_id
        self._models = models

    def cancel(self) -> None:
        self._models.cancelled.append(self.request_id)
        self._models.gate.set()

    def await_first_audio(self, *, awaited: bool) -> None:
        pass

    def release(self) -> None:
        self._models.released.append(self.request_id)


class FakeModels:
    """Answers every call with its own number; a gate holds the answers back."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.cancelled: list[str] = []
        self.released: list[str] = []
        self.calls: queue.Queue[str] = queue.Queue()

    def token(self, request_id: str) -> FakeToken:
        return FakeToken(self, request_id)

    def __call__(self, call: StageCall[Any], token: FakeToken) -> Any:
        self.calls.put(token.request_id)
        assert self.gate.wait(10)
        if token.request_id in self.cancelled:
            raise Cancelled("told so")
        return call.answer(call.request.number)


def echo(number: int) -> StageCall[Echo]:
    return StageCall("m", Echo(number), Echo)


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
    pool = CallPool("test", models, LineLimits(1, 1, 100))
    replies = [Waiting() for _ in range(3)]

    def work_for(reply: Waiting) -> Any:
        return lambda scope: reply.send(scope(echo(1)), final=True)

    for reply in replies[:2]:
        pool.submit(work_for(reply), reply)
    with pytest.raises(Overloaded, match="1 requests are in work and 1 wait"):
        pool.submit(work_for(replies[2]), replies[2])
    models.gate.set()
    for reply in replies[:2]:
        assert reply.answers.get(timeout=10) == Echo(1)
    pool.close()


def test_an_error_of_the_work_reaches_the_caller() -> None:
    pool = CallPool("test", FakeModels(), LineLimits(1, 0, 100))
    reply = Waiting()

    def work(scope: CancelScope) -> None:
        raise RuntimeError("broken")

    pool.submit(work, reply)
    error = reply.answers.get(timeout=10)
    assert isinstance(error, RuntimeError)
    pool.close()


def test_cancelling_calls_off_what_is_under_way_and_refuses_later_calls() -> None:
    models = FakeModels()
    pool = CallPool("test", models, LineLimits(1, 0, 100))
    reply = Waiting()
    scopes: list[CancelScope] = []

    def work(scope: CancelScope) -> None:
        scopes.append(scope)
        scope(echo(1))
        reply.send("not reached", final=True)

    cancel = pool.submit(work, reply, "mine")
    assert models.calls.get(timeout=10) == "mine"
    cancel()
    assert isinstance(reply.answers.get(timeout=10), Cancelled)
    assert models.cancelled == ["mine"]
    with pytest.raises(Cancelled):
        scopes[0](echo(2))
    pool.close()
    assert models.released == ["mine"]


def test_who_rests_holds_no_place_of_those_who_work() -> None:
    models = FakeModels()
    models.gate.set()
    pool = CallPool("test", models, LineLimits(1, 2, 100))
    resting, other, third = Waiting(), Waiting(), Waiting()

    def rest(scope: CancelScope) -> None:
        resting.send("rests", final=False)
        scope.inner().rest(30.0)

    cancel = pool.submit(rest, resting, "resting")
    assert resting.answers.get(timeout=10) == "rests"
    pool.submit(lambda scope: other.send(scope(echo(1)), final=True), other)
    assert other.answers.get(timeout=10) == Echo(1)
    limit = time.monotonic() + 10
    while pool._line._requests > 1 and time.monotonic() < limit:
        time.sleep(0.01)  # the answer comes a moment before its place is free
    models.gate.clear()
    pool.submit(lambda scope: third.send(scope(echo(3)), final=True), third, "third")
    pool.submit(lambda scope: None, Waiting())
    with pytest.raises(
        Overloaded, match="1 requests are in work and 2 wait"
    ):  # who rests counts here
        pool.submit(lambda scope: None, Waiting())
    cancel()
    assert isinstance(resting.answers.get(timeout=10), Cancelled)
    models.gate.set()
    assert third.answers.get(timeout=10) == Echo(3)
    pool.close()


def test_the_end_refuses_those_in_line() -> None:
    models = FakeModels()
    pool = CallPool("test", models, LineLimits(1, 2, 100))
    first, second, left = Waiting(), Waiting(), Waiting()
    pool.submit(lambda scope: first.send(scope(echo(1)), final=True), first, "first")
    models.calls.get(timeout=10)
    pool.submit(lambda scope: second.send("not reached", final=True), second, "second")
    pool.submit(lambda scope: left.send("not reached", final=True), left, "left")()
    assert isinstance(left.answers.get(timeout=10), Cancelled)
    threading.Timer(0.1, models.gate.set).start()
    pool.close()
    assert first.answers.get(timeout=10) == Echo(1)
    assert "is stopping" in str(second.answers.get(timeout=10))
    assert sorted(models.released) == ["first", "left", "second"]


def test_an_attempt_is_cancelled_alone_or_with_all() -> None:
    models = FakeModels()
    models.gate.set()
    scope = CancelScope(models, "mine")
    first, second = scope.inner(), scope.inner()
    first.cancel()
    models.cancelled.clear()  # both go by the caller's name here
    assert second(echo(2)) == Echo(2)
    scope.cancel()
    for inner in (first, second, scope):
        with pytest.raises(Cancelled):
            inner(echo(1))
    scope.close()
    assert models.released == ["mine"] * 3


def test_what_ends_something_is_called_after_the_caller_has_left() -> None:
    models = FakeModels()
    models.gate.set()
    scope = CancelScope(models)
    scope.cancel()
    models.cancelled.clear()
    assert scope.last(echo(3)) == Echo(3)


def test_a_caller_without_a_name_left_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    models = FakeModels()
    models.gate.set()
    pool = CallPool("test", models, LineLimits(1, 0, 100))

    def refuse(request_id: str) -> FakeToken:
        raise Overloaded("no name left")

    with monkeypatch.context() as patch:
        patch.setattr(models, "token", refuse)
        with pytest.raises(Overloaded, match="no name left"):
            pool.submit(lambda scope: None, Waiting())
    reply = Waiting()
    pool.submit(lambda scope: reply.send(scope(echo(1)), final=True), reply)
    assert reply.answers.get(timeout=10) == Echo(1)
    pool.close()


class Dying(FakeModels):
    """Fails with ``errors`` first."""

    def __init__(self, errors: list[Exception]) -> None:
        super().__init__()
        self.gate.set()
        self.errors, self.sequences = errors, []
        self.made_again: list[bool] = []

    def __call__(self, call: StageCall[Any], token: FakeToken) -> Any:
        self.sequences.append(call.sequence)
        self.made_again.append(call.made_again)
        if self.errors:
            raise self.errors.pop(0)
        return super().__call__(call, token)


def test_a_call_whose_process_is_gone_is_made_again() -> None:
    models = Dying([Unreachable("gone")] * 3)
    whole = dataclasses.replace(echo(1), sequence=SequenceStep(7, start=True, end=True))
    assert CancelScope(models)(whole) == Echo(1)
    assert len({step.id for step in models.sequences}) == 4, "an old sequence may be held up"
    assert models.made_again == [False, True, True, True], "it goes before others from then on"
    assert all(step.start and step.end for step in models.sequences)


@pytest.mark.parametrize(
    ("error", "sequence"),
    [(GsvError("a fault"), None), (Unreachable("gone"), SequenceStep(7, start=False, end=False))],
)
def test_other_calls_are_made_once(error: GsvError, sequence: SequenceStep | None) -> None:
    models = Dying([error])
    with pytest.raises(type(error)):
        CancelScope(models)(dataclasses.replace(echo(1), sequence=sequence))
    assert len(models.sequences) == 1


def end_of(sequence: int) -> StageCall[Echo]:
    step = SequenceStep(sequence, start=False, end=True)
    return dataclasses.replace(echo(0), sequence=step)


def test_what_fails_at_the_end_takes_no_place_along() -> None:
    """A call that ends a sequence needs a thread, perhaps, and there may be none."""
    models = Dying([])
    pool = CallPool("speech", models, LineLimits(1, 0, 100))
    asked = dataclasses.replace(echo(1), sequence=SequenceStep.first(), ending=end_of)
    for number in range(1, 4):
        answers = Waiting()

        def work(scope: CancelScope, answers: Waiting = answers) -> None:
            scope(asked)
            models.errors = [RuntimeError("can't start new thread")]
            answers.finish()

        pool.submit(work, answers)
        assert answers.answers.get(timeout=10) == "end"
        limit = time.monotonic() + 10
        while len(models.released) < number and time.monotonic() < limit:
            time.sleep(0.01)
    pool.close()


@pytest.mark.parametrize("fault", [None, GsvError("a fault"), Cancelled("left")])
def test_a_call_keeps_its_place_until_the_scope_is_closed(fault: GsvError | None) -> None:
    models = Dying([Unreachable("gone")] + [fault] * (fault is not None))
    scope = CancelScope(models)
    asked = dataclasses.replace(echo(1), sequence=SequenceStep.first(), ending=end_of)
    if fault is None:
        assert scope.inner()(asked) == Echo(1)
    else:
        with pytest.raises(type(fault)):
            scope.inner()(asked)
    lost, held = models.sequences
    assert (held.start, held.end) == (True, False)
    assert lost.id != held.id
    models.errors = [GsvError("never heard of it")]  # which is nobody's business any more
    scope.close()
    scope.close()
    assert models.sequences[2:] == [SequenceStep(held.id, start=False, end=True)]


def test_a_request_that_ends_processes_is_tried_twice() -> None:
    error = Unreachable("gone")
    error.begun = True
    models = Dying([error] * 3)
    with pytest.raises(Unreachable):
        CancelScope(models)(echo(1))
    assert len(models.sequences) == 2


def test_a_request_that_meets_a_dead_process_is_no_such_one() -> None:
    """However long the stages before it have taken."""
    models = Dying([Unreachable("gone")] * 3)
    assert CancelScope(models)(echo(1)) == Echo(1)


def test_nobody_waits_for_a_model_when_the_caller_has_left() -> None:
    models = Dying([Unreachable("gone")] * 1000)
    scope = CancelScope(models)
    timer = threading.Timer(0.1, scope.cancel)
    timer.start()
    with pytest.raises((Unreachable, Cancelled)):
        scope(echo(1))
    timer.join()
