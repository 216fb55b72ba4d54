"""Masks for the rows of a batch that differ in length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gsv.device import upload


def row_mask(lengths: Sequence[int] | None, size: int, device: torch.device) -> Tensor | None:
    """:func:`length_mask` of numbers that the CPU knows; ``None`` as well when all rows are full.

    The mask is made on the CPU and uploaded without waiting for the device.
    """
    if lengths is None or min(lengths) >= size:
        return None
    return upload(np.arange(size) < np.array(lengths)[:, None], device)


def length_mask(lengths: Tensor | None, size: int) -> Tensor | None:
    """bool [B, size], true inside each row's length; ``None`` when there are no lengths."""
    if lengths is None:
        return None
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def keep(values: Tensor, mask: Tensor | None) -> Tensor:
    """``values`` [B, C, T] with zeros where ``mask`` [B, T] is false."""
    return values if mask is None else values * mask[:, None]


def keep_rows(values: Tensor, mask: Tensor | None) -> Tensor:
    """``values`` [B, T, C] with zeros where ``mask`` [B, T] is false."""
    return values if mask is None else values * mask[..., None]


def key_mask(mask: Tensor | None) -> Tensor | None:
    """``mask`` [B, T] as attention's mask over keys, [B, 1, 1, T]."""
    return None if mask is None else mask[:, None, None]
