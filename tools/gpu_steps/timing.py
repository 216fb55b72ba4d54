"""How long things take on the device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

MILLI = 1e3


def wait(device: str) -> None:
    """Until the device has done all that it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def call_seconds(function: Callable[[], Any], device: str) -> float:
    """Seconds of one call, the device's work included."""
    wait(device)
    started = time.perf_counter()
    function()
    wait(device)
    return time.perf_counter() - started


def steady(
    function: Callable[[], Any], device: str, repeats: int, *, first: bool = True
) -> dict[str, float]:
    """Milliseconds of a call that was made before.

    Args:
        function: the call.
        device: where it works.
        repeats: calls of which the median and the best are taken.
        first: also keep the very first call's time, which chooses, compiles and allocates.

    Returns:
        ``first_ms`` (if wanted), ``ms`` (median), ``best_ms``, and ``queued_ms``: the same calls
        one behind the other without waiting in between, which is the device's own time as long as
        the calls are launched faster than they run.
    """
    found = {"first_ms": MILLI * call_seconds(function, device)} if first else {}
    if not first:
        function()
    times = [MILLI * call_seconds(function, device) for _ in range(repeats)]
    queued = call_seconds(lambda: [function() for _ in range(repeats)], device)
    return found | {
        "ms": statistics.median(times),
        "best_ms": min(times),
        "queued_ms": MILLI * queued / repeats,
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile, least and most."""
    ordered = sorted(values)
    return {
        "p50": statistics.median(ordered),
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "min": ordered[0],
        "max": ordered[-1],
    }


def memory(device: str) -> dict[str, float]:
    """MiB that PyTorch's allocator holds on the device, and what is free there."""
    if not device.startswith("cuda"):
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {
        "allocated_mib": torch.cuda.memory_allocated(device) / 2**20,
        "reserved_mib": torch.cuda.memory_reserved(device) / 2**20,
        "free_mib": free / 2**20,
        "total_mib": total / 2**20,
    }
