"""What a real device would refuse, compute wrongly or not notice; each is an error here."""

from __future__ import annotations


class DeviceFault(RuntimeError):
    """The root of all faults. Each is also kept in the log, in case the product catches it."""


class Misplaced(DeviceFault):
    """Tensors of different devices meet in one operation."""


class IllegalCapture(DeviceFault):
    """Something that a stream under capture doesn't permit."""


class Race(DeviceFault):
    """Two streams, or a stream and the host, use the same memory in no defined order."""


class StaleMemory(DeviceFault):
    """A graph's memory is read after another graph of its pool may have written over it."""
