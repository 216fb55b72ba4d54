"""A public request on its way to its caller: counted for its voice, and timed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from gsv.reply import Reply
from gsv.stages.calls import CallPool, CancelScope
from gsv.timings import Timings
from gsv.voices.metrics import UNKNOWN, VoiceMetrics, outcome_of


class MeteredReply:
    """A reply that counts the request and its audio for its voice when the answer ends.

    Args:
        reply: the way to the caller.
        voice_metrics: where it is counted.
        timings: of the model; an answer in chunks is timed where they have ``first_audio``.
        clock: seconds.

    Attributes:
        begun: whether something was sent, or the answer has ended.
    """

    def __init__(
        self,
        reply: Reply,
        voice_metrics: VoiceMetrics,
        timings: Timings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reply = reply
        self._voice_metrics = voice_metrics
        self._timings = timings
        self._clock = clock
        self._arrived = clock()
        # When a listener who plays from the first chunk on has nothing left to play.
        self._silent_from: float | None = None
        self._seconds = 0.0
        self._open = True
        self.begun = False
        self._lock = threading.Lock()
        self.voice = UNKNOWN

    def submitted(
        self,
        pool: CallPool,
        work: Callable[[CancelScope], None],
        request_id: str = "",
        characters: int = 0,
    ) -> Callable[[], None]:
        """Submit the work that answers here; counts as well what the pool refuses."""

        def begin(scope: CancelScope) -> None:
            self._timings.waited(self._clock() - self._arrived)
            work(scope)

        try:
            return pool.submit(begin, self, request_id, characters)
        except BaseException as error:  # whatever it is, it is counted
            self.end(error)
            raise

    def send(self, result: Any, *, final: bool) -> None:
        """As :class:`gsv.stages.base.Reply`; results have audio and a rate."""
        self.begun = True
        seconds = len(result.audio) / result.sample_rate
        self._seconds += seconds
        if seconds and "first_audio" in self._timings.kinds:
            self._time_chunk(seconds)
        if final:
            self.end(None)
        self._reply.send(result, final=final)

    def _time_chunk(self, seconds: float) -> None:
        now = self._clock()
        if self._silent_from is None:
            self._timings.observe("first_audio", now - self._arrived)
            self._silent_from = now
        else:
            self._timings.observe("late", now - self._silent_from)
        # A listener who had to wait goes on from here.
        self._silent_from = max(self._silent_from, now) + seconds

    def finish(self) -> None:
        """As :class:`gsv.stages.base.Reply`."""
        self.end(None)
        self._reply.finish()

    def fail(self, error: BaseException) -> None:
        """As :class:`gsv.stages.base.Reply`."""
        self.end(error)
        self._reply.fail(error)

    def end(self, error: BaseException | None) -> None:
        """Count; without effect the second time."""
        with self._lock:
            if not self._open:
                return
            self._open = False
        self.begun = True
        self._voice_metrics.count("requests", self.voice, detail=outcome_of(error))
        if self._seconds:
            self._voice_metrics.count("audio_seconds", self.voice, self._seconds)
