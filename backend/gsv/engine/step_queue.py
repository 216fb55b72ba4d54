"""Steps that a device has been given, up to the moment when their end is seen.

A GPU is given the next step before the last one is over, so that it never waits for us. A CPU has
done a step when the call returns.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from typing import Any, Generic, TypeVar

import torch

# Steps that a GPU may have in line; work that comes in a hurry waits for them, so no more.
GPU_STEPS = 2

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Step(Generic[Result]):
    """A step that is over.

    Attributes:
        units: of work that it did.
        seconds: that the device took.
        results: what its end completes.
    """

    units: float
    seconds: float
    results: list[Result]


@dataclasses.dataclass
class _Queued(Generic[Result]):
    begin: Any  # an event on a GPU, else seconds of the monotonic clock
    end: Any
    units: float
    results: list[Result]


class StepQueue(Generic[Result]):
    """The steps of one device and thread, oldest first.

    Args:
        device: where they run.

    Attributes:
        most: steps that may be queued when another one is asked for.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self.most = GPU_STEPS - 1 if self._on_gpu else 0
        self._steps: deque[_Queued[Result]] = deque()

    def __len__(self) -> int:
        return len(self._steps)

    def mark(self) -> Any:
        """Now, for the device: to be taken before a step is queued."""
        if not self._on_gpu:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def add(self, begin: Any, units: float, results: list[Result]) -> None:
        """Note that a step was queued after ``begin``, and its results are on their way."""
        self._steps.append(_Queued(begin, self.mark(), units, results))

    def land(self) -> Step[Result]:
        """Wait for the oldest step's end; if the device fails, it stays the oldest one."""
        queued = self._steps[0]
        if self._on_gpu:
            queued.end.synchronize()
            seconds = queued.begin.elapsed_time(queued.end) / 1000
        else:
            seconds = queued.end - queued.begin
        self._steps.popleft()
        return Step(queued.units, seconds, queued.results)

    def drain(self) -> list[Result]:
        """Forget all steps; their results, which may never be complete."""
        results = [result for queued in self._steps for result in queued.results]
        self._steps.clear()
        return results
