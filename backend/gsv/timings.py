"""Durations that any thread of a process observes and one of them tells to Triton."""

from __future__ import annotations

import collections
import threading
from typing import Literal

# queue: what a piece of work waited until it was begun. first_audio: from a request's arrival to
# the first chunk that has samples. late: what a listener with nothing left to play waited for a
# chunk; 0 for one that came in time.
Timing = Literal["queue", "first_audio", "late"]

_KEPT = 10_000  # where nobody takes them, as outside of Triton


class Timings:
    """The durations of one model since they were last taken.

    Args:
        kinds: those that the model observes.
    """

    def __init__(self, *kinds: Timing) -> None:
        self.kinds = kinds
        self._lock = threading.Lock()
        self._seen: collections.deque[tuple[Timing, float]] = collections.deque(maxlen=_KEPT)

    def observe(self, kind: Timing, seconds: float) -> None:
        """Note one duration; from any thread."""
        with self._lock:
            self._seen.append((kind, max(0.0, seconds)))

    def waited(self, seconds: float) -> None:
        """Note what a piece of work waited in line."""
        self.observe("queue", seconds)

    def take(self) -> list[tuple[Timing, float]]:
        """All since the last call, in order."""
        with self._lock:
            seen = list(self._seen)
            self._seen.clear()
        return seen
