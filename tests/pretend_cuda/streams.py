"""Streams and events: what is ordered before what, and what the host may look at.

Work is computed at once, so streams never really run beside each other. What is kept is the order
that the product asked for: every operation has a number in its stream, and a stream knows up to
which number of another one it has waited. Memory that is used without such an order is a race.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch

from pretend_cuda.machine import machine


class Stream:
    """As ``torch.cuda.Stream``."""

    def __init__(self, device: Any = None, priority: int = 0, **_: object) -> None:
        self._machine = machine()
        self.device = torch.device("cuda", self._machine.index_of(device))
        self.priority = priority
        self.stream_id = self.cuda_stream = next(self._machine.numbers)
        self.is_default = False
        self.issued = 0  # operations put in line
        self.finished = 0  # of them, known to the host to be over
        self.known: dict[Stream, int] = {}  # how far other streams are ordered before this one
        self.capture: Any = None  # the Capture that this stream's work goes into
        self._due: deque[tuple[int, Callable[[], None]]] = deque()
        self._machine.streams.add(self)
        self._before: list[tuple[int, Stream]] = []

    @staticmethod
    def priority_range() -> tuple[int, int]:
        """Lowest and highest priority."""
        return 0, -5

    def issue(self, due: Callable[[], None] | None = None) -> int:
        """Number of a new operation; ``due`` is called once the host knows that it is over."""
        with self._machine.lock:
            self.issued += 1
            if due is not None:
                self._due.append((self.issued, due))
            return self.issued

    def follows(self, other: Stream, number: int) -> bool:
        """Whether new work here comes after operation ``number`` of another stream."""
        return other is self or number <= other.finished or number <= self.known.get(other, 0)

    def finish(self, number: int | None = None) -> None:
        """Let the host know that all up to ``number`` is over, and what that waited for."""
        with self._machine.lock:
            number = self.issued if number is None else number
            while self._due and self._due[0][0] <= number:
                self._due.popleft()[1]()
            self.finished = max(self.finished, number)

    def follow(self, other: Stream, number: int, known: dict[Stream, int]) -> None:
        """Order all new work here after operation ``number`` of another stream."""
        with self._machine.lock:
            for stream, upto in {**known, other: max(number, known.get(other, 0))}.items():
                if stream is not self:
                    self.known[stream] = max(self.known.get(stream, 0), upto)
            self.issue(lambda: other.finish(number))

    def wait_event(self, event: Event) -> None:
        """Order all new work here after the event."""
        event.wait(self)

    def wait_stream(self, stream: Stream) -> None:
        """Order all new work here after what the other stream has been told so far."""
        self.wait_event(stream.record_event())

    def record_event(self, event: Event | None = None) -> Event:
        """An event after what this stream has been told so far."""
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        """Wait for all of this stream."""
        self._machine.wait("stream.synchronize")
        self.finish()

    def query(self) -> bool:
        """Whether all of this stream is over: a device that is asked is just ready."""
        self._machine.refuse_in_capture("stream.query")
        self.finish()
        return True

    def __enter__(self) -> Stream:
        self._before.append((self._machine.device, self._machine.current_stream(self.device.index)))
        self._machine.device = self.device.index
        self._machine.choose_stream(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        device, stream = self._before.pop()
        self._machine.choose_stream(stream)
        self._machine.device = device

    def __repr__(self) -> str:
        return f"<pretended stream {self.stream_id} of {self.device}>"


class Event:
    """As ``torch.cuda.Event``."""

    def __init__(self, enable_timing: bool = False, **_: object) -> None:
        self._machine = machine()
        self._timed = enable_timing
        self._stream: Stream | None = None
        self._number = 0
        self._known: dict[Stream, int] = {}
        self._seconds = 0.0
        self._captured: Any = None
        self._asked = False

    def record(self, stream: Stream | None = None) -> None:
        """Stand after what ``stream`` (by default the current one) has been told so far."""
        stream = stream or self._machine.current_stream(self._machine.device)
        self._stream, self._known = stream, dict(stream.known)
        self._captured, self._asked = stream.capture, False
        self._number = stream.issue()
        self._seconds = time.perf_counter()

    def wait(self, stream: Stream | None = None) -> None:
        """Order all new work of ``stream`` (by default the current one) after the event."""
        stream = stream or self._machine.current_stream(self._machine.device)
        if self._stream is None:
            return
        if self._captured is not None and stream.capture is None:
            self._captured.fork(stream)
        elif self._captured is not None:
            self._captured.join(self._stream)
        stream.follow(self._stream, self._number, self._known)

    def query(self) -> bool:
        """Whether the event has happened; one that nobody waited for has at the second asking."""
        self._machine.refuse_in_capture("event.query")
        if self._stream is None or self._number <= self._stream.finished:
            return True
        if not self._asked:
            self._asked = True
            return False
        self._stream.finish(self._number)
        return True

    def synchronize(self) -> None:
        """Wait until the event has happened."""
        self._machine.wait("event.synchronize")
        if self._stream is not None:
            self._stream.finish(self._number)

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds between two events that have happened."""
        self._machine.refuse_in_capture("event.elapsed_time")
        for event in (self, end):
            if not event._timed:
                raise RuntimeError("both events must be made with enable_timing=True")
            if event._stream is None or event._number > event._stream.finished:
                raise RuntimeError("CUDA error: device not ready (an event is not over)")
        return 1e3 * (end._seconds - self._seconds)
