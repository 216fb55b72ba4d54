"""A public request is timed where it passes on its way to the caller."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gsv.stages.calls import CallPool, CancelScope
from gsv.stages.metered_reply import MeteredReply
from gsv.stages.waiting_line import LineLimits
from gsv.timings import Timing, Timings
from gsv.voices import VoiceFolder
from gsv.voices.metrics import VoiceMetrics

RATE = 1000


@dataclasses.dataclass
class Clock:
    """Seconds that a test moves on."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclasses.dataclass
class Chunk:
    """Audio of so many seconds."""

    seconds: float
    sample_rate: int = RATE

    @property
    def audio(self) -> Any:
        return np.zeros(round(self.seconds * RATE), np.float32)


class Caller:
    """Takes what is sent."""

    def send(self, result: Any, *, final: bool) -> None:
        pass

    def finish(self) -> None:
        pass

    def fail(self, error: BaseException) -> None:
        raise AssertionError from error


class NoModels:
    """Names for calls that nobody makes."""

    def __call__(self, call: Any, token: Any) -> Any:
        raise AssertionError

    def token(self, request_id: str) -> NoModels:
        return self

    def cancel(self) -> None:
        pass

    def await_first_audio(self, *, awaited: bool) -> None:
        pass

    def release(self) -> None:
        pass


Make = Callable[[Timings], MeteredReply]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(tmp_path: Path, clock: Clock) -> Make:
    voices = VoiceMetrics(VoiceFolder(tmp_path, ""))
    return lambda timings: MeteredReply(Caller(), voices, timings, clock)


def of(timings: Timings, kind: Timing) -> list[float]:
    return [seconds for seen, seconds in timings.take() if seen == kind]


def test_a_stream_is_timed_chunk_by_chunk(make: Make, clock: Clock) -> None:
    timings = Timings("queue", "first_audio", "late")
    reply = make(timings)
    clock.now += 0.4
    reply.send(Chunk(0.0), final=False)  # nothing to hear yet
    clock.now += 0.1
    reply.send(Chunk(1.0), final=False)
    clock.now += 0.9
    reply.send(Chunk(0.5), final=False)  # 0.1 s before the listener runs dry, who then has 0.6 s
    clock.now += 1.0
    reply.send(Chunk(2.0), final=False)  # 0.4 s late: playing goes on from here
    clock.now += 1.9
    reply.send(Chunk(1.0), final=True)
    seen = timings.take()
    assert [s for kind, s in seen if kind == "first_audio"] == pytest.approx([0.5])
    assert [s for kind, s in seen if kind == "late"] == pytest.approx([0.0, 0.4, 0.0])


def test_a_whole_answer_has_no_chunks(make: Make, clock: Clock) -> None:
    timings = Timings("queue")
    make(timings).send(Chunk(1.0), final=True)
    assert timings.take() == []


def test_what_waits_for_a_thread_is_timed(make: Make, clock: Clock) -> None:
    timings = Timings("queue")
    first, done = threading.Event(), threading.Event()
    pool = CallPool("test", NoModels(), LineLimits(1, 1, 100))

    def hold(scope: CancelScope) -> None:
        assert first.wait(30)

    make(timings).submitted(pool, hold)
    make(timings).submitted(pool, lambda scope: done.set())
    clock.now += 3.0
    first.set()
    assert done.wait(30)
    pool.close()
    assert of(timings, "queue")[-1] == pytest.approx(3.0)


def test_what_nobody_takes_does_not_pile_up() -> None:
    timings = Timings("queue")
    for _ in range(20_000):
        timings.waited(1.0)
    assert len(timings.take()) == 10_000
    assert timings.take() == []
