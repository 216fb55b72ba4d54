"""The end of a public request, counted for its voice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from gsv.reply import Reply
from gsv.stages.calls import CallPool, CancelScope
from gsv.voices.metrics import UNKNOWN, VoiceMetrics, outcome_of


class MeteredReply:
    """A reply that counts the request and its audio for its voice when the answer ends."""

    def __init__(self, reply: Reply, voice_metrics: VoiceMetrics) -> None:
        self._reply = reply
        self._voice_metrics = voice_metrics
        self._seconds = 0.0
        self._open = True
        self._lock = threading.Lock()
        self.voice = UNKNOWN

    def submitted(
        self, pool: CallPool, work: Callable[[CancelScope], None], request_id: str = ""
    ) -> Callable[[], None]:
        """Submit the work that answers here; counts as well what the pool refuses."""
        try:
            return pool.submit(work, self, request_id)
        except BaseException as error:  # whatever it is, it is counted
            self.end(error)
            raise

    def send(self, result: Any, *, final: bool) -> None:
        """As :class:`gsv.stages.base.Reply`; results have audio and a rate."""
        self._seconds += len(result.audio) / result.sample_rate
        if final:
            self.end(None)
        self._reply.send(result, final=final)

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
        self._voice_metrics.count("requests", self.voice, detail=outcome_of(error))
        if self._seconds:
            self._voice_metrics.count("audio_seconds", self.voice, self._seconds)
