"""Empty chunks for callers of a stream who have waited a while for its first audio.

Up to the first response Triton doesn't read from an HTTP connection (2.51), so it can't see that
its caller has hung up, and the stream would be made for nobody: after hundreds of callers who left
at once, for half a minute. A response without samples is heard by nobody, and ends that.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from gsv.stages.metered_reply import MeteredReply

logger = logging.getLogger(__name__)


class Notices:
    """Those who may have to be given one; :meth:`sweep` is called often, by one thread.

    Args:
        seconds: that a caller waits before it gets one; 0: never.
        clock: seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._waiting: deque[tuple[float, MeteredReply, Any]] = deque()  # the next one first

    def expect(self, reply: MeteredReply, empty: Any) -> None:
        """Send ``empty``, a result, to a caller that gets nothing else in time."""
        if self._seconds:
            self._waiting.append((self._clock() + self._seconds, reply, empty))

    def sweep(self) -> None:
        """Send what is due."""
        while self._waiting and self._waiting[0][0] <= self._clock():
            _, reply, empty = self._waiting.popleft()
            if reply.begun:
                continue
            try:
                reply.send(empty, final=False)
            except Exception:  # whatever one caller's sender meets, the others are looked after
                logger.exception("an empty chunk could not be sent")
