"""What each model tells on the Prometheus endpoint beside Triton's own figures.

Triton takes the time of a request until ``execute`` returns. A model that answers later, through a
response sender, looks instantaneous there; these figures go on until its last response.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import triton_python_backend_utils as pb_utils

from gsv.stages.base import Load
from gsv.stages.sentence_report import GuardCounts
from gsv.timings import Timing, Timings
from gsv.voices.metrics import OUTCOMES, Family, VoiceMetrics

# Upper bounds of the buckets, in seconds: from the shortest text to the longest answer; of what a
# listener waits for; and of chunks, where 0 holds those that came in time.
_ANSWER_BOUNDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0,
)  # fmt: skip
_FIRST_AUDIO_BOUNDS = (
    0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0,
)  # fmt: skip
_LATE_BOUNDS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_QUEUE_BOUNDS = (
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip

_SHOW_SECONDS = 0.25  # between two looks at a running batch; Prometheus looks less often

# Of durations that stages observe: the family's name, what it tells, its buckets.
_TIMINGS: dict[Timing, tuple[str, str, tuple[float, ...]]] = {
    "queue": (
        "gsv_queue_seconds",
        "Seconds that requests, sentences, mel chunks and waves waited until they were begun",
        _QUEUE_BOUNDS,
    ),
    "first_audio": (
        "gsv_first_audio_seconds",
        "Seconds from a stream's arrival at the model to its first chunk that has samples",
        _FIRST_AUDIO_BOUNDS,
    ),
    "late": (
        "gsv_chunk_late_seconds",
        "Seconds that a listener with nothing left to play waited for a chunk; 0: it was in time",
        _LATE_BOUNDS,
    ),
}

# Of the families of voices: what they tell, whether they are counters, and their third label.
_VOICES: dict[Family, tuple[str, bool, str]] = {
    "requests": ("Requests in a voice, by how they ended", True, "outcome"),
    "audio_seconds": ("Seconds of audio that were sent in a voice", True, ""),
    "features": (
        "Uses of a reference's features: from memory, from disk, or computed", True, "source",
    ),
    "resident_bytes": ("Memory of a voice's own weights; 0: they are not loaded", False, "device"),
    "loads": ("Times that a voice's own weights were loaded", True, ""),
    "load_seconds": ("Seconds that loading them took", True, ""),
    "load_failures": ("Times that they could not be loaded", True, ""),
    "unread_characters": ("Letters, digits and signs of texts that had no reading", True, ""),
}  # fmt: skip


class _Gauge:
    """A gauge that tells Triton only what has changed.

    To tell it takes two switches between processes, with a lock that both share: a process that is
    killed meanwhile can take Triton down (2.51).
    """

    def __init__(self, metric: Any) -> None:
        self._metric = metric
        self._told: float | None = None

    def set(self, value: float) -> None:
        """Set it; from the thread that flushes."""
        if value != self._told:
            self._metric.set(value)
            self._told = value


class Histogram:
    """One histogram of one instance, in seconds.

    Triton has the kind from 24.08 on (python_backend #374).
    """

    def __init__(
        self, name: str, about: str, bounds: tuple[float, ...], model: str, instance: str
    ) -> None:
        self._family = pb_utils.MetricFamily(
            name=name, description=about, kind=pb_utils.MetricFamily.HISTOGRAM
        )  # a metric ends with its family
        self._metric = self._family.Metric(
            labels={"model": model, "model_instance": instance}, buckets=list(bounds)
        )

    def observe(self, seconds: float) -> None:
        """Count one duration; from the thread that flushes."""
        self._metric.observe(seconds)


class TimingHistograms:
    """The durations that the stage of one instance observes."""

    def __init__(self, timings: Timings, model: str, instance: str) -> None:
        self._timings = timings
        self._timings.take()  # of the warm-up
        self._histograms = {
            kind: Histogram(*_TIMINGS[kind], model, instance) for kind in timings.kinds
        }

    def flush(self) -> None:
        """Tell Triton what was observed since the last call; from the thread that flushes."""
        for kind, seconds in self._timings.take():
            self._histograms[kind].observe(seconds)


class RequestMetrics:
    """The requests of one model: those under way, those that ended how, and their seconds.

    Every model of a server uses the same families, told apart by the label ``model``. Instances add
    to the same counters; each has gauges and histograms of its own, with the label
    ``model_instance``.
    """

    def __init__(self, model: str, instance: str) -> None:
        in_flight = pb_utils.MetricFamily(
            name="gsv_requests_in_flight",
            description="Requests that have arrived at the model and have not ended",
            kind=pb_utils.MetricFamily.GAUGE,
        )
        requests = pb_utils.MetricFamily(
            name="gsv_requests_total",
            description="Requests that were answered, refused, cancelled, or failed",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        self._families = (in_flight, requests)  # a metric ends with its family
        labels = {"model": model, "model_instance": instance}
        self._in_flight = _Gauge(in_flight.Metric(labels=labels))
        self._in_flight.set(0)  # requests of a process that died are lost
        self._requests = {
            outcome: requests.Metric(labels={"model": model, "outcome": outcome})
            for outcome in OUTCOMES
        }
        self._seconds = Histogram(
            "gsv_request_seconds",
            "Seconds from an answered request's arrival at the model to its last response",
            _ANSWER_BOUNDS,
            model,
            instance,
        )
        self._lock = threading.Lock()
        self._under_way = 0
        self._ended: list[tuple[str, float]] = []

    def begin(self, requests: int = 1) -> None:
        """Count requests that have arrived; from any thread."""
        with self._lock:
            self._under_way += requests

    def observe(self, outcome: str, seconds: float) -> None:
        """Count one request that has ended; from any thread."""
        with self._lock:
            self._under_way -= 1
            self._ended.append((outcome, seconds))

    def flush(self) -> None:
        """Tell Triton; from one thread of the model, the one that also asks for cancellations.

        Calls into Triton for metrics beside calls from other threads took the server down with
        signal 11 (tritonserver 2.51).
        """
        with self._lock:
            under_way, ended, self._ended = self._under_way, self._ended, []
        self._in_flight.set(under_way)
        for outcome, seconds in ended:
            self._requests[outcome].increment(1)
            if outcome == "answered":
                self._seconds.observe(seconds)


class LoadMetrics:
    """Gauges of an instance with a running batch of its own.

    Args:
        model, instance: the labels.
        clock: seconds.
    """

    def __init__(
        self, model: str, instance: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._shown = -math.inf
        described = {
            "running": "Sequences or mel chunks in the running batch",
            "waiting": "Those that wait for a place in it",
            "steps": "Steps that the running batch has taken",
            "rows": "Rows of all those steps; rows over steps is the mean batch",
        }
        self._families = {
            name: pb_utils.MetricFamily(
                name=f"gsv_batch_{name}", description=text, kind=pb_utils.MetricFamily.GAUGE
            )
            for name, text in described.items()
        }
        self._gauges = {
            name: _Gauge(family.Metric(labels={"model": model, "model_instance": instance}))
            for name, family in self._families.items()
        }

    def show(self, load: Load) -> None:
        """Set the gauges, while the batch runs not at every call."""
        now = self._clock()
        if load.running + load.waiting > 0 and now - self._shown < _SHOW_SECONDS:
            return
        self._shown = now
        for name, gauge in self._gauges.items():
            gauge.set(getattr(load, name))


class VoiceFamilies:
    """The figures of voices, from a stage's `VoiceMetrics`; for the thread that flushes the others.

    Args:
        model: the first label.
        device: the label of what is in memory: each instance has its own.
    """

    def __init__(self, model: str, device: str) -> None:
        self._model = model
        self._device = device
        # Each with a family object of its own: a series lives as long as the object that made it.
        self._metrics: dict[tuple[Family, str, str], tuple[Any, Any]] = {}

    def flush(self, voice_metrics: VoiceMetrics) -> None:
        """Tell Triton what has changed, and drop the series of voices that are gone."""
        for change in voice_metrics.take():
            metric = self._metric(change.family, change.voice, change.detail)
            if _VOICES[change.family][1]:
                metric.increment(change.value)
            else:
                metric.set(change.value)
        if gone := set(voice_metrics.gone()):
            self._metrics = {key: m for key, m in self._metrics.items() if key[1] not in gone}

    def _metric(self, family: Family, voice: str, detail: str) -> Any:
        key = (family, voice, detail)
        if key not in self._metrics:
            text, counts, third = _VOICES[family]
            made = pb_utils.MetricFamily(
                name=f"gsv_voice_{family}{'_total' if counts else ''}",
                description=text,
                kind=pb_utils.MetricFamily.COUNTER if counts else pb_utils.MetricFamily.GAUGE,
            )
            labels = {"model": self._model, "voice": voice}
            if third:
                labels[third] = self._device if third == "device" else detail
            self._metrics[key] = (made, made.Metric(labels=labels))
        return self._metrics[key][1]


class GuardFamilies:
    """What the guard against bad speech has done; for the thread that flushes the others."""

    def __init__(self, model: str, instance: str) -> None:
        self._labels = {"model": model, "model_instance": instance}
        self._told: dict[tuple[str, ...], int] = {}
        self._families = {
            name: pb_utils.MetricFamily(
                name=f"gsv_guard_{name}_total", description=text, kind=pb_utils.MetricFamily.COUNTER
            )
            for name, text in {
                "sentences": "Sentences that the guard has judged",
                "retries": "Times that it has had a sentence drawn again, by what was wrong",
                "bad_sentences": "Sentences of which no drawing was good, by what is wrong",
            }.items()
        }  # fmt: skip
        self._metrics: dict[tuple[str, ...], Any] = {}

    def flush(self, counts: GuardCounts) -> None:
        """Tell Triton what has been counted since."""
        for language, count in counts.sentences().items():
            self._tell(("sentences", language), count)
        for (cause, language), count in counts.retries().items():
            self._tell(("retries", language, cause), count)
        for (cause, language), count in counts.stayed_bad().items():
            self._tell(("bad_sentences", language, cause), count)

    def _tell(self, key: tuple[str, ...], count: int) -> None:
        if count == self._told.get(key, 0):
            return
        if key not in self._metrics:
            family, language, *cause = key
            labels = {**self._labels, "language": language}
            if cause:
                labels["cause"] = cause[0]
            self._metrics[key] = self._families[family].Metric(labels=labels)
        self._metrics[key].increment(count - self._told.get(key, 0))
        self._told[key] = count
