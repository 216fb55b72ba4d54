"""Files of voices that can't be used, remembered for a while."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from gsv.errors import VoiceError
from gsv.voices import Voice

# A file that can't be used is not read again for every request, but now and then: the reason may
# have been the disk's and not the file's.
_FAILURE_SECONDS = 60.0
_FAILURES = 1024  # files


@dataclasses.dataclass(frozen=True)
class _Failure:
    """Why a file can't be used, and until when that is taken for granted."""

    message: str
    until: float


class Failures:
    """Files that can't be used: not read again for every request, but now and then.

    May be used from several threads.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[str, _Failure] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, key: str) -> None:
        """Raise VoiceError if the content under ``key`` is known to be of no use."""
        with self._lock:
            failure = self._known.get(key)
        if failure is not None and self._clock() < failure.until:
            raise VoiceError(failure.message)

    def remember(self, key: str, voice: Voice, path: Path, error: Exception) -> VoiceError:
        """The error that requests for this content get from now on, in words for them.

        Args:
            key: stands for the file's content.
            voice: whose file it is.
            path: the file.
            error: what reading it brought up.
        """
        # Callers must not learn where the folder lies.
        message = f"voice {voice.label}: {str(error).replace(f'{path.parent}/', '')}"
        with self._lock:
            self._known[key] = _Failure(message, self._clock() + _FAILURE_SECONDS)
            while len(self._known) > _FAILURES:
                self._known.popitem(last=False)
        return VoiceError(message)
