"""Whole answers give way in every stage while a listener waits for first audio.

Networks on one CPU share its cores. While a listener's sentence is in the flow, steps of the GPT
and windows of the vocoder for whole answers take cores from it, and a window that has begun when
the listener's mel comes must end first. Turns order the work of one engine only, so a flag that all
processes of the server see stops whole answers in the other engines as well.

They rest for a bounded share of the time, so that a crowd of listeners can't starve them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SHARE = 0.2  # of the time that whole answers work, which they may rest later
MOST_SECONDS = 2.0  # of rest in a row
LEAST_SECONDS = 0.2  # that must be left for a rest to begin


class GiveWay:
    """Whether whole answers are to rest now; asked by one engine's thread before each step.

    Args:
        awaited: whether anybody on this server waits for first audio; by default nobody ever does.
        clock: seconds.
    """

    def __init__(
        self,
        awaited: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._awaited = awaited
        self._clock = clock
        self._left = MOST_SECONDS  # of rest
        self._looked = clock()
        self._resting = False

    def rests(self, *, able: bool) -> bool:
        """Whether to rest until the next look; the time since the last one is counted.

        Args:
            able: whether there is nothing but work that can rest.
        """
        now = self._clock()
        passed, self._looked = now - self._looked, now
        self._left += -passed if self._resting else SHARE * passed
        self._left = min(max(self._left, 0.0), MOST_SECONDS)
        enough = self._left > 0 if self._resting else self._left >= LEAST_SECONDS
        self._resting = able and enough and self._awaited()
        return self._resting
