"""Masks for the rows of a batch that differ in length."""

from __future__ import annotations

import torch
from torch import Tensor


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
