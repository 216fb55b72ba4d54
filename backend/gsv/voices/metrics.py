"""What happens in which voice, counted by any thread and told to Triton by one.

Names of voices become labels of metrics, and labels must not grow without end: only voices that
are in the folder have their own, what a caller makes up goes under a common one, and the labels of
a voice that has been removed go as well.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Literal

from gsv.errors import Cancelled, InvalidRequest, Overloaded
from gsv.voices import VoiceFolder

OUTCOMES = ("answered", "refused", "cancelled", "failed")
Family = Literal[
    "requests", "audio_seconds", "features", "resident_bytes", "loads", "load_seconds",
    "load_failures", "unread_characters",
]  # fmt: skip
# Instead of a voice's name:
OWN_RECORDING = "(request)"  # the request brings its own recording
UNKNOWN = "(unknown)"  # there is no such voice
OTHERS = "(other)"  # one more than LABELS voices

LABELS = 1_000
_LOOK_SECONDS = 5.0  # between looks for voices that are gone


def outcome_of(error: BaseException | None) -> str:
    """How a request ended, as the metrics tell it."""
    if error is None:
        return "answered"
    if isinstance(error, (InvalidRequest, Overloaded)):
        return "refused"
    return "cancelled" if isinstance(error, Cancelled) else "failed"


@dataclasses.dataclass(frozen=True)
class Change:
    """One figure that changed.

    Attributes:
        family: of the metric.
        voice: the label.
        value: what is added to a counter, or the new value of a gauge.
        detail: a further label's value, where the family has one.
    """

    family: Family
    voice: str
    value: float
    detail: str = ""


class VoiceMetrics:
    """The figures of one model that have changed since they were last taken.

    Args:
        voices: whose names become labels.
        clock: seconds.
    """

    def __init__(self, voices: VoiceFolder, clock: Callable[[], float] = time.monotonic) -> None:
        self._voices = voices
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[tuple[Family, str, str], float] = {}
        self._gauges: dict[tuple[Family, str, str], float] = {}
        self._labels: set[str] = set()
        self._looked = clock()

    def label(self, name: str, *, own_recording: bool = False) -> str:
        """The label of a request for the voice ``name``, or for the default one."""
        if own_recording:
            return OWN_RECORDING
        plain = (name or self._voices.default).partition("/")[0].partition("@")[0]
        return plain if plain in self._voices else UNKNOWN

    def count(self, family: Family, voice: str, amount: float = 1, detail: str = "") -> None:
        """Add to a counter."""
        with self._lock:
            key = (family, self._bounded(voice), detail)
            self._counts[key] = self._counts.get(key, 0) + amount

    def set(self, family: Family, voice: str, value: float) -> None:
        """Set a gauge."""
        with self._lock:
            self._gauges[family, self._bounded(voice), ""] = value

    def take(self) -> list[Change]:
        """All changes since the last call."""
        with self._lock:
            counts, self._counts = self._counts, {}
            gauges, self._gauges = self._gauges, {}
        return [
            Change(family, voice, value, detail)
            for values in (counts, gauges)
            for (family, voice, detail), value in values.items()
        ]

    def gone(self) -> list[str]:
        """Labels of voices that have been removed, each told once; looks every few seconds."""
        now = self._clock()
        with self._lock:
            if now - self._looked < _LOOK_SECONDS:
                return []
            self._looked = now
            labels = list(self._labels)
        removed = [name for name in labels if name not in self._voices]
        with self._lock:
            self._labels.difference_update(removed)
        return removed

    def _bounded(self, voice: str) -> str:
        if voice in (OWN_RECORDING, UNKNOWN) or voice in self._labels:
            return voice
        if len(self._labels) >= LABELS:
            return OTHERS
        self._labels.add(voice)
        return voice
