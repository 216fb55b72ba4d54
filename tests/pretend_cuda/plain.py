"""Torch without what is pretended: for the computation behind the device's tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

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
