"""Pinned memory of the host, and copies that are under way while the host goes on.

A copy to the host shows its values once the host has waited for it; until then the memory holds
poison, and an operation on it is a race. The source of a copy to the device must not change before
the copy is over.
"""

from __future__ import annotations

import dataclasses
import weakref

import torch
from torch import Tensor

from pretend_cuda.faults import Race
from pretend_cuda.machine import Machine
from pretend_cuda.memory import poison
from pretend_cuda.plain import plainly
from pretend_cuda.streams import Stream

_ATTRIBUTE = "pretended_pinned"  # of a storage: its Pinned


@dataclasses.dataclass
class Pinned:
    """What is known of a pinned storage: the bytes that copies under way will still write."""

    due: list[tuple[int, int]] = dataclasses.field(default_factory=list)


def pin(values: Tensor) -> Tensor:
    """Mark the storage of a tensor as pinned."""
    if not is_pinned(values):
        setattr(values.untyped_storage(), _ATTRIBUTE, Pinned())
    return values


def is_pinned(values: Tensor) -> bool:
    """Whether the tensor lies in pinned memory."""
    return hasattr(values.untyped_storage(), _ATTRIBUTE)


def start_download(machine: Machine, stream: Stream, target: Tensor, value: Tensor) -> None:
    """Copy ``value``, which nobody else holds, into pinned ``target``, some time later."""
    state: Pinned = getattr(target.untyped_storage(), _ATTRIBUTE)
    span = _span(target)
    value = value.to(target.dtype).expand(target.shape)
    poison(target)
    if target.dtype == torch.bool:
        target.copy_(~value)  # a flag has no third value; a wrong one is found soonest
    with machine.lock:
        state.due.append(span)
        machine.undelivered += 1

    def deliver() -> None:
        with plainly():
            target.copy_(value)
        state.due.remove(span)
        machine.undelivered -= 1

    stream.issue(deliver)


def start_upload(machine: Machine, stream: Stream, source: Tensor) -> None:
    """Watch the pinned ``source`` of a copy to the device until the copy is over."""
    check(machine, source, "a copy to the device")
    storage = weakref.ref(source.untyped_storage())
    layout = (source.storage_offset(), source.shape, source.stride())
    dtype, before = source.dtype, source.clone()

    def compare() -> None:
        alive = storage()
        if alive is None:  # torch keeps freed pinned memory until the copy is over
            return
        with plainly():
            now = torch.empty(0, dtype=dtype).set_(alive, *layout)
            same = torch.equal(_bits(now), _bits(before))
        if not same:
            message = (
                f"the pinned source {tuple(before.shape)} of a copy to the device was changed "
                "before anybody waited for the copy"
            )
            raise machine.fault(Race(message))

    stream.issue(compare)


def check(machine: Machine, values: Tensor, what: str) -> None:
    """Race if a copy that nobody has waited for still writes into ``values``."""
    if not machine.undelivered:
        return
    state: Pinned | None = getattr(values.untyped_storage(), _ATTRIBUTE, None)
    if state is None or not state.due:
        return
    first, end = _span(values)
    if any(first < other_end and start < end for start, other_end in state.due):
        message = (
            f"{what} uses host memory that a copy from the device still writes; wait for an event "
            "that is recorded after the copy"
        )
        raise machine.fault(Race(message))


def _span(values: Tensor) -> tuple[int, int]:
    """First byte of a tensor in its storage, and the one after its last."""
    if values.numel() == 0:
        return 0, 0
    width = values.element_size()
    reach = sum((n - 1) * step for n, step in zip(values.shape, values.stride(), strict=True))
    first = values.storage_offset() * width
    return first, first + (reach + 1) * width


def _bits(values: Tensor) -> Tensor:
    """The same bytes; NaN equals itself in them."""
    return values.contiguous().reshape(-1).view(torch.uint8)
