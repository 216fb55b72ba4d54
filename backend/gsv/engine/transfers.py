"""Copies from a GPU that nobody waits for, unless for their numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Download:
    """A tensor on its way from a GPU; ``wait`` for it after queueing what needs not wait.

    Args:
        values: of any device. On a CPU they are copied at once.
    """

    def __init__(self, values: Tensor) -> None:
        self._event: Any = None
        if values.device.type != "cuda":
            self._values = values.clone()
            return
        self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._values.copy_(values, non_blocking=True)
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record()

    def wait(self) -> Tensor:
        """The values on the CPU."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._values
