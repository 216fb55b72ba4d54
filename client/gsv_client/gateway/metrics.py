"""Counters and histograms of the gateway, in Prometheus' text format."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

from gsv_client.gateway.record import Record

# Upper bounds of the buckets in seconds.
FIRST_AUDIO_BOUNDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0)
REQUEST_BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """How many values lie below each bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        place = sum(value > bound for bound in self._bounds)
        self._counts[place] += 1
        self._sum += value

    def lines(self, name: str) -> Iterator[str]:
        """The samples of the metric."""
        total = 0
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self._sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """What the gateway has done so far; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._left = self._refused_connections = 0
        self._audio_seconds = 0.0
        self._first_audio = Histogram(FIRST_AUDIO_BOUNDS)
        self._seconds = Histogram(REQUEST_BOUNDS)
        self.in_flight = 0
        self.connections = 0

    def count(self, route: str, record: Record) -> None:
        """A request has ended. `route` is one of a few, since each has its own counter."""
        with self._lock:
            self._requests[route, record.status] += 1
            self._left += record.left
            self._audio_seconds += record.audio_seconds
            if record.first_audio is not None:
                self._first_audio.add(record.first_audio)
                self._seconds.add(record.elapsed())

    def refuse_connection(self) -> None:
        """A socket was closed before it had sent a request."""
        with self._lock:
            self._refused_connections += 1

    def text(self) -> str:
        """Everything, for Prometheus."""
        with self._lock:
            return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield from _head("gsv_gateway_requests_total", "counter", "Requests by route and status")
        for (route, status), count in sorted(self._requests.items()):
            yield f'gsv_gateway_requests_total{{route="{route}",status="{status}"}} {count}'
        for name, kind, about, value in (
            ("requests_in_flight", "gauge", "Requests under way", self.in_flight),
            ("connections", "gauge", "Open sockets", self.connections),
            ("connections_refused_total", "counter", "Sockets closed without a request",
             self._refused_connections),
            ("left_total", "counter", "Callers who left before the end", self._left),
            ("audio_seconds_total", "counter", "Seconds of audio", self._audio_seconds),
        ):  # fmt: skip
            yield from _head(f"gsv_gateway_{name}", kind, about)
            yield f"gsv_gateway_{name} {value:g}"
        for name, about, histogram in (
            ("first_audio_seconds", "Until the first chunk from Triton", self._first_audio),
            ("request_seconds", "Of requests with audio", self._seconds),
        ):
            yield from _head(f"gsv_gateway_{name}", "histogram", about)
            yield from histogram.lines(f"gsv_gateway_{name}")


def _head(name: str, kind: str, about: str) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"
