"""Who has waited a while for the first audio of a stream gets an empty chunk."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gsv.errors import Cancelled
from gsv.stages.metered_reply import MeteredReply
from gsv.stages.notices import Notices
from gsv.timings import Timings
from gsv.voices import VoiceFolder
from gsv.voices.metrics import VoiceMetrics


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Caller:
    """Notes what is sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, result: Any, *, final: bool) -> None:
        self.sent.append((result, final))

    def finish(self) -> None:
        pass

    def fail(self, error: BaseException) -> None:
        pass


def audio(samples: int) -> Any:
    return SimpleNamespace(audio=np.zeros(samples, np.float32), sample_rate=1000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def caller() -> Caller:
    return Caller()


@pytest.fixture
def reply(tmp_path: Path, clock: Clock, caller: Caller) -> MeteredReply:
    voices = VoiceMetrics(VoiceFolder(tmp_path, ""))
    return MeteredReply(caller, voices, Timings("queue", "first_audio", "late"), clock)


def test_who_waits_gets_one_when_the_time_is_over(
    reply: MeteredReply, caller: Caller, clock: Clock
) -> None:
    notices, empty = Notices(2.0, clock), audio(0)
    notices.expect(reply, empty)
    clock.now += 1.9
    notices.sweep()
    assert caller.sent == []
    clock.now += 0.2
    notices.sweep()
    assert caller.sent == [(empty, False)]
    clock.now += 10
    notices.sweep()
    assert len(caller.sent) == 1


@pytest.mark.parametrize("how", ["heard", "failed", "finished"])
def test_nobody_else_gets_one(reply: MeteredReply, caller: Caller, clock: Clock, how: str) -> None:
    notices = Notices(2.0, clock)
    notices.expect(reply, audio(0))
    if how == "heard":
        reply.send(audio(10), final=False)
    elif how == "failed":
        reply.fail(Cancelled("left"))
    else:
        reply.finish()
    told = len(caller.sent)
    clock.now += 3
    notices.sweep()
    assert len(caller.sent) == told


def test_a_caller_that_can_not_be_reached_holds_nobody_up(
    tmp_path: Path, clock: Clock, caller: Caller, reply: MeteredReply
) -> None:
    class Broken(Caller):
        def send(self, result: Any, *, final: bool) -> None:
            raise RuntimeError("closed")

    voices = VoiceMetrics(VoiceFolder(tmp_path, ""))
    notices = Notices(2.0, clock)
    notices.expect(MeteredReply(Broken(), voices, Timings("queue"), clock), audio(0))
    notices.expect(reply, audio(0))
    clock.now += 3
    notices.sweep()
    assert len(caller.sent) == 1


def test_it_can_be_turned_off(reply: MeteredReply, caller: Caller, clock: Clock) -> None:
    notices = Notices(0.0, clock)
    notices.expect(reply, audio(0))
    clock.now += 100
    notices.sweep()
    assert caller.sent == []
