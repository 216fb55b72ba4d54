"""Memory of the device: who owns how much of it, and in which order it is written and read."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch
from torch import Tensor

from pretend_cuda.faults import Race, StaleMemory
from pretend_cuda.machine import Machine
from pretend_cuda.streams import Stream

_ATTRIBUTE = "pretended_memory"  # of a storage: a weak reference to its Memory


class Memory:
    """One allocation, shared by all tensors that view it, and freed with the last of them.

    Raises:
        torch.OutOfMemoryError: the device has no room for it.
    """

    def __init__(self, machine: Machine, home: Stream, inner: Tensor) -> None:
        storage = inner.untyped_storage()
        self.machine = machine
        self.home = home  # the stream that it is allocated on, and reused on once it is freed
        self.index: int = home.device.index
        self.bytes = storage.nbytes()
        self.writer: tuple[Stream, int] | None = None
        self.readers: dict[Stream, int] = {}
        self.recorded: set[Stream] = set()  # by record_stream
        self.owner = 0  # number of the capture that allocated it
        self.stale = ""  # why its content is not to be read
        with machine.lock:
            usage = machine.usage[self.index]
            if usage.allocated + self.bytes > machine.memory:
                wanted, self.bytes = self.bytes, 0
                raise torch.OutOfMemoryError(
                    f"CUDA out of memory (pretended): tried to allocate {wanted} bytes; "
                    f"{usage.allocated} of {machine.memory} are allocated"
                )
            usage.allocated += self.bytes
            usage.reserved = max(usage.reserved, usage.allocated)
            usage.peak = max(usage.peak, usage.allocated)
        setattr(storage, _ATTRIBUTE, weakref.ref(self))
        self._storage = weakref.ref(storage)
        self._layout = (inner.dtype, inner.storage_offset(), inner.shape, inner.stride())

    def first_view(self) -> Tensor | None:
        """The tensor that it was allocated for."""
        storage, (dtype, *layout) = self._storage(), self._layout
        return None if storage is None else torch.empty(0, dtype=dtype).set_(storage, *layout)

    @staticmethod
    def of(inner: Tensor) -> Memory | None:
        """The allocation that a tensor's storage is, if tensors of the device look at it."""
        reference = getattr(inner.untyped_storage(), _ATTRIBUTE, None)
        return None if reference is None else reference()

    def __del__(self) -> None:
        with self.machine.lock:
            self.machine.usage[self.index].allocated -= self.bytes
        if self.owner:
            return
        for stream, number in [*self.readers.items(), *([self.writer] if self.writer else [])]:
            if stream not in self.recorded and not self.home.follows(stream, number):
                message = (
                    f"memory of {self.home} is freed while {stream} may still use it; let the "
                    "first wait for the second, or call record_stream"
                )
                self.machine.fault(Race(message))


def use(stream: Stream, reads: Iterable[Memory], writes: Iterable[Memory]) -> None:
    """An operation of ``stream`` that reads and writes memory.

    Raises:
        StaleMemory: what it reads has been written over by another graph.
        Race: another stream writes it, or reads what is written here, in no defined order.
    """
    machine = stream._machine
    reads, writes = list(reads), list(writes)
    number = stream.issue()
    for memory in reads:
        if memory.stale:
            raise machine.fault(StaleMemory(f"this memory can't be read: {memory.stale}"))
        _follow_writer(stream, memory)
        memory.readers[stream] = number
    for memory in writes:
        _follow_writer(stream, memory)
        for other, earlier in memory.readers.items():
            if not stream.follows(other, earlier):
                message = f"{stream} writes what {other} may still read; wait for an event of it"
                raise machine.fault(Race(message))
        memory.writer, memory.readers, memory.stale = (stream, number), {}, ""


def _follow_writer(stream: Stream, memory: Memory) -> None:
    if memory.writer is not None and not stream.follows(*memory.writer):
        message = f"{stream} uses what {memory.writer[0]} may still write; wait for an event of it"
        raise stream._machine.fault(Race(message))


def poison(values: Tensor) -> None:
    """Fill with what no right program reads: NaN, or the most negative number."""
    if values.dtype.is_floating_point or values.dtype.is_complex:
        values.fill_(float("nan"))
    elif values.dtype == torch.bool:
        values.fill_(True)
    else:
        values.fill_(torch.iinfo(values.dtype).min or 0xA5)
