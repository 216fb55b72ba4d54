"""Callers who listen to streams, and what they heard."""

from __future__ import annotations

import dataclasses
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from gpu_steps.timing import MILLI, spread

_GAP_MS = 50.0  # of silence that a listener notices


@dataclasses.dataclass(frozen=True)
class Listened:
    """One stream, played from its first chunk on.

    Attributes:
        first_ms: from the request to the first chunk.
        whole_ms: to the end.
        dry_ms: how long the player had nothing to play.
        audio_s: length of the audio.
    """

    first_ms: float
    whole_ms: float
    dry_ms: float
    audio_s: float


def listen(ask: Callable[[], Iterable[float]]) -> Listened:
    """Ask for a stream and hear it to its end; ``ask`` gives the seconds of each chunk."""
    started = time.perf_counter()
    first, audio, dry = 0.0, 0.0, 0.0
    for seconds in ask():
        now = time.perf_counter()
        first = first or now
        # So much time has gone by since playing began; what was not audio was silence.
        dry += max(0.0, now - first - audio - dry)
        audio += seconds
    ended = time.perf_counter()
    if not first:
        raise ValueError("a stream without any chunk")
    return Listened(MILLI * (first - started), MILLI * (ended - started), MILLI * dry, audio)


class Parallel:
    """``ask(caller)`` of each caller on a thread of its own, begun at the same moment.

    Attributes:
        values: what each returned.
        seconds: until the last one was done.
    """

    def __init__(self, count: int, ask: Callable[[int], Any]) -> None:
        self.values: list[Any] = [None] * count
        errors: list[BaseException] = []
        gate = threading.Barrier(count + 1)

        def work(caller: int) -> None:
            gate.wait()
            try:
                self.values[caller] = ask(caller)
            except BaseException as error:  # raised again where all callers are joined
                errors.append(error)

        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(count)]
        for thread in threads:
            thread.start()
        gate.wait()
        started = time.perf_counter()
        for thread in threads:
            thread.join()
        self.seconds = time.perf_counter() - started
        if errors:
            raise errors[0]


def summary(heard: Parallel) -> dict[str, Any]:
    """Of callers that each returned a list of :class:`Listened`."""
    answers = [answer for caller in heard.values for answer in caller]
    audio = sum(answer.audio_s for answer in answers)
    return {
        "callers": len(heard.values),
        "answers": len(answers),
        "first_ms": spread([answer.first_ms for answer in answers]),
        "whole_ms": spread([answer.whole_ms for answer in answers]),
        "dry_ms": spread([answer.dry_ms for answer in answers]),
        "smooth_share": statistics.mean(answer.dry_ms <= _GAP_MS for answer in answers),
        "audio_s": audio,
        "seconds": heard.seconds,
        "audio_s_per_s": audio / heard.seconds,
    }
