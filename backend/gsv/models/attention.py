"""Scaled dot-product attention, with a CPU form for long sequences."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from gsv.models.layers import onednn_linear, onednn_serves
from gsv.models.masking import key_mask, length_mask

_LOG2_E = math.log2(math.e)
# 2**100 times any number of keys and values stays below 2**128, where float32 and bfloat16 end.
# float16 has no such room.
_SAFE_EXPONENT = {torch.float32: 100.0, torch.bfloat16: 100.0, torch.float16: 0.0}


def attention_mask(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What :func:`attend` reads besides the lengths: ``mask`` [B, T] over keys [B, 1, 1, T].

    On a GPU as numbers to be added to the scores, of ``dtype``, which is that of queries and keys;
    from a boolean mask PyTorch makes these anew at each call.
    """
    keys = key_mask(mask)
    if keys is None or keys.device.type == "cpu":
        return keys
    return torch.zeros_like(keys, dtype=dtype).masked_fill_(~keys, -math.inf)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor | None,
    mask: Tensor | None = None,
) -> Tensor:
    """Attention of every head.

    Args:
        query, key, value: [B, T, heads, head_dim].
        lengths: [B] keys of each row, or None when all rows are full.
        mask: :func:`attention_mask` of ``lengths`` for several calls; None has it made.

    Returns:
        [B, T, heads * head_dim]; beyond a row's length it means nothing.
    """
    if onednn_serves(query):
        return _attend_on_cpu(query, key, value, lengths)
    if mask is None:
        mask = attention_mask(length_mask(lengths, key.shape[1]), query.dtype)
    mixed = functional.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
    )
    return mixed.transpose(1, 2).flatten(2)


def _attend_on_cpu(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None) -> Tensor:
    """Row by row and head by head, as whole matrix products.

    With oneDNN's products this takes a third of the time of PyTorch's fused kernel, whose blocks
    are too small for a CPU.
    """
    rows, frames, heads, width = query.shape
    mixed = value.new_zeros(rows, frames, heads, width)
    sizes = [frames] * rows if lengths is None else lengths.tolist()
    for row, size in enumerate(sizes):
        queries = query[row, :size].float() * (_LOG2_E / math.sqrt(width))
        # The keys' mean adds the same to all scores of a query, which softmax doesn't see; without
        # it scores are smaller, and so is their rounding (Zhang et al., SageAttention, 2024).
        keys = key[row, :size].float()
        keys = keys - keys.mean(0)
        limits = _largest_norm(queries) * _largest_norm(keys)  # of each head's scores
        queries = queries.to(query.dtype)
        keys = keys.to(key.dtype).transpose(0, 1).contiguous()  # [heads, size, head_dim]
        values = value[row, :size].permute(1, 2, 0).contiguous()  # [heads, head_dim, size]
        for head, limit in enumerate(limits.tolist()):
            scores = onednn_linear(queries[:, head], keys[head])
            # Taking off each row's largest only guards against overflow, at the price of two
            # passes; most heads can't overflow.
            if not limit < _SAFE_EXPONENT[query.dtype]:
                scores -= scores.amax(-1, keepdim=True)
            weights = scores.exp2_()
            total = weights.sum(-1, keepdim=True, dtype=torch.float32)
            mixed[row, :size, head] = onednn_linear(weights, values[head]) / total
    return mixed.flatten(2)


def _largest_norm(vectors: Tensor) -> Tensor:
    """[T, heads, head_dim] to [heads]; two of these bound a product (Cauchy-Schwarz)."""
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return norms.amax(0)
