"""Scaled dot-product attention, with a CPU form for long sequences."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from gsv.models.layers import onednn_linear, onednn_serves
from gsv.models.masking import key_mask, length_mask

_LOG2_E = math.log2(math.e)
_SAFE_EXPONENT = 100.0  # 2**100 times any number of keys stays below float32's 2**128


def attend(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None) -> Tensor:
    """Attention of every head.

    Args:
        query, key, value: [B, T, heads, head_dim].
        lengths: [B] keys of each row, or None when all rows are full.

    Returns:
        [B, T, heads * head_dim]; beyond a row's length it means nothing.
    """
    # float16 has no room for exponentials that nothing was subtracted from.
    plain = query.dtype == torch.float16 or not onednn_serves(query)
    if not plain and _exponents_are_safe(query, key):
        return _attend_on_cpu(query, key, value, lengths)
    mask = key_mask(length_mask(lengths, key.shape[1]))
    mixed = functional.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
    )
    return mixed.transpose(1, 2).flatten(2)


def _exponents_are_safe(query: Tensor, key: Tensor) -> bool:
    """Whether no score can be so large that its exponential overflows (Cauchy-Schwarz)."""
    largest = [torch.linalg.vector_norm(part, dim=-1).amax().item() for part in (query, key)]
    bound = largest[0] * largest[1] / math.sqrt(query.shape[-1]) * _LOG2_E
    return bool(bound < _SAFE_EXPONENT)  # also false for NaN


def _attend_on_cpu(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None) -> Tensor:
    """Head by head, without the search for each row's largest score.

    Subtracting it only guards against overflow, which is excluded beforehand. With oneDNN's
    products this takes a third of the time of PyTorch's fused kernel, whose blocks are too small
    for a CPU.
    """
    rows, frames, heads, width = query.shape
    scale = _LOG2_E / math.sqrt(width)
    mixed = value.new_zeros(rows, frames, heads, width)
    sizes = [frames] * rows if lengths is None else lengths.tolist()
    for row, size in enumerate(sizes):
        queries = (query[row, :size].float() * scale).to(query.dtype)
        # The keys' mean adds the same to all scores of a query and softmax doesn't see it; without
        # it scores are smaller, and so is their rounding (Zhang et al., SageAttention, 2024).
        keys = key[row, :size].float()
        keys = (keys - keys.mean(0)).to(key.dtype).transpose(0, 1).contiguous()
        values = value[row, :size].permute(1, 2, 0).contiguous()  # [heads, head_dim, size]
        for head in range(heads):
            weights = onednn_linear(queries[:, head], keys[head]).exp2_()
            total = weights.sum(-1, keepdim=True, dtype=torch.float32)
            mixed[row, :size, head] = onednn_linear(weights, values[head]) / total
    return mixed.flatten(2)
