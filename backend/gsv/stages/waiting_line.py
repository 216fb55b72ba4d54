"""Who may come in: a line that is limited by the work in it, and says how long it takes."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections import deque
from collections.abc import Callable

from gsv.errors import InvalidRequest, Overloaded

_PACE_SECONDS = 60.0  # the pace is that of so long a time


@dataclasses.dataclass(frozen=True)
class LineLimits:
    """What may be inside at once.

    Attributes:
        running: requests in work.
        waiting: requests that wait for one of those to end.
        characters: of all their texts together; texts are what answers cost.
    """

    running: int
    waiting: int
    characters: int


class WaitingLine:
    """Counts what is inside, and refuses what would be too much.

    Args:
        limits: of what is inside.
        clock: seconds.
    """

    def __init__(self, limits: LineLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._requests = 0
        self._characters = 0
        self._ended: deque[tuple[float, int]] = deque()  # when, and how many characters
        self._lock = threading.Lock()

    def enter(self, characters: int) -> None:
        """Let a request in that brings so many characters.

        Raises:
            InvalidRequest: it has more than can ever be inside.
            Overloaded: there is no room now; the message says when to expect some.
        """
        limits = self._limits
        if characters > limits.characters:
            raise InvalidRequest.value(
                "TEXT",
                f"{characters} characters",
                f"up to {limits.characters}, the `characters` of this model; send it in parts",
            )
        with self._lock:
            full = self._requests >= limits.running + limits.waiting
            if full or self._characters + characters > limits.characters:
                running = min(self._requests, limits.running)
                raise Overloaded(
                    f"{running} requests are in work and {self._requests - running} wait, with "
                    f"texts of {self._characters} characters; the limits are {limits.running}, "
                    f"{limits.waiting} and {limits.characters}; "
                    f"try again in {self._expected(characters)} s"
                )
            self._requests += 1
            self._characters += characters

    def leave(self, characters: int) -> None:
        """A request has ended."""
        with self._lock:
            self._requests -= 1
            self._characters -= characters
            self._ended.append((self._clock(), characters))
            self._forget()

    def refuse(self, characters: int) -> None:
        """A request that was let in did not begin: it says nothing of the pace."""
        with self._lock:
            self._requests -= 1
            self._characters -= characters

    def _expected(self, characters: int) -> int:
        """Whole seconds until as much has ended as is asked for, at the pace of late; 1 or more."""
        self._forget()
        ended = sum(count for _, count in self._ended)
        if not ended:
            return 1
        seconds = max(self._clock() - self._ended[0][0], 1.0)
        return max(1, math.ceil(characters * seconds / ended))

    def _forget(self) -> None:
        while self._ended and self._clock() - self._ended[0][0] > _PACE_SECONDS:
            self._ended.popleft()
