"""What a stream's listener has heard, as far as a server can know."""

from __future__ import annotations

from collections.abc import Callable

from gsv.engine.chunk_plan import ChunkPlan
from gsv.stages.synthesis import Listener


class Playback:
    """What a listener who plays from the first chunk on has left."""

    def __init__(self, clock: Callable[[], float], lead_seconds: float) -> None:
        self._clock = clock
        self._lead_seconds = lead_seconds
        self._started: float | None = None
        self._heard = False  # whether any of what was sent was speech
        self._sent_seconds = 0.0
        self._previous, self._took = 0, 0.0  # frames of the last chunk made, and seconds for it
        self._asked = 0.0  # when the next one was asked for

    def sent(self, seconds: float, *, speech: bool = True) -> None:
        """Count a chunk that is about to leave; ``speech`` is false for a pause."""
        self._heard |= speech
        if self._started is None:
            self._started = self._clock()
        self._sent_seconds += seconds

    def next_size(self, plan: ChunkPlan) -> int:
        """Frames of the chunk that is asked for now."""
        self._asked = self._clock()
        return plan.size(self.buffered, self._previous, self._took)

    def made(self, frames: int) -> None:
        """Take note of the chunk that was asked for last."""
        self._previous, self._took = frames, self._clock() - self._asked

    @property
    def surplus(self) -> float:
        """Seconds by which more than the lead is left to play; 0 if it is not."""
        return max(0.0, self.buffered - self._lead_seconds)

    @property
    def listener(self) -> Listener:
        """How the listener stands now, for the stages' order."""
        return Listener(not self._heard, self.buffered)

    @property
    def buffered(self) -> float:
        """Seconds sent and not played yet."""
        if self._started is None:
            return 0.0
        return max(0.0, self._sent_seconds - (self._clock() - self._started))
