"""Torch without what is pretended: for the computation behind the device's tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Within: no mode, no subclass and no inference tensors."""
    with (
        _disable_current_modes(),
        torch._C.DisableTorchFunction(),
        torch.inference_mode(False),
        torch.no_grad(),
    ):
        yield


def leaves(value: Any) -> Iterator[Any]:
    """What an operator's arguments or results contain, lists and dictionaries taken apart."""
    if isinstance(value, tuple | list):
        for part in value:
            yield from leaves(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from leaves(part)
    else:
        yield value


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """The same lists and dictionaries with every other value changed."""
    if isinstance(value, tuple | list):
        parts = [mapped(change, part) for part in value]
        if isinstance(value, list):
            return parts
        # Some operators answer with a named tuple of torch's, which is made of one sequence.
        return tuple(parts) if type(value) is tuple else type(value)(parts)
    if isinstance(value, dict):
        return {key: mapped(change, part) for key, part in value.items()}
    return change(value)
