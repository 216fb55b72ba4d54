"""What each model tells on the Prometheus endpoint beside Triton's own figures.

Triton takes the time of a request until ``execute`` returns. A model that answers later, through a
response sender, looks instantaneous there; these figures go on until its last response.
"""

from __future__ import annotations

import threading
from typing import Any

import triton_python_backend_utils as pb_utils

from gsv.stages.base import Load
from gsv.voices.metrics import OUTCOMES, Family, VoiceMetrics

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


class RequestMetrics:
    """The requests of one model: those under way, those that ended how, and their seconds.

    Every model of a server uses the same families, told apart by the label ``model``. Instances add
    to the same counters; each has gauges of its own, with the label ``model_instance``.
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
        seconds = pb_utils.MetricFamily(
            name="gsv_request_seconds_total",
            description="Seconds from a request's arrival at the model to its last response",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        self._families = (in_flight, requests, seconds)  # a metric ends with its family
        self._in_flight = in_flight.Metric(labels={"model": model, "model_instance": instance})
        self._in_flight.set(0)  # requests of a process that died are lost
        self._requests = {
            outcome: requests.Metric(labels={"model": model, "outcome": outcome})
            for outcome in OUTCOMES
        }
        self._seconds = seconds.Metric(labels={"model": model})
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
            self._seconds.increment(seconds)


class LoadMetrics:
    """Gauges of an instance with a running batch of its own."""

    def __init__(self, model: str, instance: str) -> None:
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
            name: family.Metric(labels={"model": model, "model_instance": instance})
            for name, family in self._families.items()
        }

    def show(self, load: Load) -> None:
        """Set all gauges."""
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
