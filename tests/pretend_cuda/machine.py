"""The pretended machine: its devices, its log, and what each thread has chosen of them."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import weakref
from typing import TYPE_CHECKING

import torch

from pretend_cuda.faults import DeviceFault
from pretend_cuda.log import Log

if TYPE_CHECKING:
    from pretend_cuda.graphs import Capture, CUDAGraph
    from pretend_cuda.streams import Stream

PoolId = tuple[int, int]


@dataclasses.dataclass
class Usage:
    """Bytes of one device."""

    allocated: int = 0  # by tensors that live
    reserved: int = 0  # the most that was allocated since the cache was emptied
    peak: int = 0


class Machine:
    """State of all devices.

    Args:
        log: where waits and faults are kept.
        devices: how many.
        memory: bytes of each; more allocated raises torch's out-of-memory error.
        capability: compute capability of each.
    """

    def __init__(self, log: Log, devices: int, memory: int, capability: tuple[int, int]) -> None:
        self.log = log
        self.memory = memory
        self.capability = capability
        self.usage = [Usage() for _ in range(devices)]
        self.lock = threading.RLock()
        self.streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self.captures: list[Capture] = []  # under way
        self.pools: dict[PoolId, weakref.WeakSet[CUDAGraph]] = {}
        self.numbers = itertools.count(1)
        self.undelivered = 0  # copies to the host that nobody has waited for yet
        self.threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self.wrong_current_device = 0  # operations of threads whose current device is another
        self._local = threading.local()
        self._defaults: dict[int, Stream] = {}

    @property
    def inside(self) -> list[int]:
        """Devices of the functions that the calling thread is in, innermost last."""
        if not hasattr(self._local, "inside"):
            self._local.inside = []
        inside: list[int] = self._local.inside
        return inside

    @property
    def device(self) -> int:
        """The calling thread's current device; 0 in every new thread."""
        return getattr(self._local, "device", 0)

    @device.setter
    def device(self, index: int) -> None:
        if not 0 <= index < len(self.usage):
            raise RuntimeError(f"CUDA error: invalid device ordinal {index} (pretended)")
        self._local.device = index

    def index_of(self, device: torch.device | str | int | None) -> int:
        """The number of a device; None and "cuda" are the current one."""
        if device is None:
            return self.device
        if isinstance(device, int):
            return device if device >= 0 else self.device
        device = torch.device(device)
        if device.type != "cuda":
            raise ValueError(f"Expected a cuda device, but got: {device}")
        index = self.device if device.index is None else device.index
        if index >= len(self.usage):
            raise RuntimeError(f"CUDA error: invalid device ordinal {index} (pretended)")
        return index

    def default_stream(self, index: int) -> Stream:
        """The stream of device ``index`` on which a thread works that has chosen none."""
        with self.lock:
            if index not in self._defaults:
                from pretend_cuda.streams import Stream

                self._defaults[index] = Stream(torch.device("cuda", index))
                self._defaults[index].is_default = True
            return self._defaults[index]

    def current_stream(self, index: int) -> Stream:
        """The calling thread's stream of device ``index``."""
        chosen: Stream | None = getattr(self._local, "streams", {}).get(index)
        return chosen or self.default_stream(index)

    def choose_stream(self, stream: Stream) -> None:
        """Make it the calling thread's stream of its device."""
        if not hasattr(self._local, "streams"):
            self._local.streams = {}
        self._local.streams[stream.device.index] = stream

    def fault(self, fault: DeviceFault) -> DeviceFault:
        """Keep a fault; to be raised by the caller."""
        return self.log.fault(fault)

    def wait(self, what: str) -> None:
        """Count a wait of the calling thread, which a capture forbids."""
        self.log.wait(what)
        self.refuse_in_capture(what)

    def refuse_in_capture(self, what: str) -> None:
        """IllegalCapture if a capture under way doesn't permit ``what`` to the calling thread."""
        from pretend_cuda.faults import IllegalCapture

        for capture in list(self.captures):
            mine = capture.thread is threading.current_thread()
            if (mine and capture.mode != "relaxed") or capture.mode == "global":
                capture.broken = True
                message = f"operation not permitted when stream is capturing: {what}"
                raise self.fault(IllegalCapture(message))

    def finish(self) -> None:
        """Let all devices end what they were told; not counted as anybody's wait."""
        for stream in list(self.streams):
            stream.finish()


_machine: list[Machine] = []


def machine() -> Machine:
    """The one that is pretended now."""
    if not _machine:
        raise RuntimeError("no CUDA device is pretended any more")
    return _machine[-1]


def switch_on(made: Machine) -> None:
    """Make it the pretended one."""
    if _machine:
        raise RuntimeError("a CUDA device is pretended already")
    _machine.append(made)


def switch_off() -> None:
    """Pretend no machine any more."""
    _machine.clear()
