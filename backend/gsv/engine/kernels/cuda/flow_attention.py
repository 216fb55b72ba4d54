"""The estimator's attention, and the rotation of its first head.

Blocks of queries go over blocks of keys with a running largest score and sum (T. Dao,
"FlashAttention-2", 2023). Rows have lengths: keys beyond them are not read, queries beyond them not
computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

_LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class Tiles:
    """How the work is cut.

    Attributes:
        queries, keys: of a block.
        warps: of 32 threads, that share a block of queries.
        stages: blocks of keys that are loaded ahead.
    """

    queries: int
    keys: int
    warps: int
    stages: int


# What is worth trying for heads of 64 on GPUs from Ampere to Hopper.
CANDIDATES = (
    Tiles(128, 64, 4, 3),
    Tiles(128, 64, 4, 2),
    Tiles(128, 128, 8, 2),
    Tiles(128, 64, 8, 3),
    Tiles(64, 64, 4, 3),
    Tiles(64, 128, 4, 2),
)
_FEW_BLOCKS = 264  # below so many blocks of 128 queries, smaller ones keep more of the GPU busy
_SMALL, _LARGE = Tiles(64, 64, 4, 3), Tiles(128, 64, 4, 3)


@triton.jit
def _attend(
    query,  # [B, T, heads, head_dim], as key and value
    key,
    value,
    mixed,  # [B, T, heads * head_dim]
    lengths,  # [B] frames of each row
    row_stride,
    frame_stride,
    head_stride,
    frames,
    scale,  # of scores, for powers of two
    heads: tl.constexpr,
    head_dim: tl.constexpr,
    has_lengths: tl.constexpr,
    queries: tl.constexpr,
    keys: tl.constexpr,
    early: tl.constexpr,
):
    if early:
        gdc_launch_dependents()
        gdc_wait()
    first = tl.program_id(0) * queries
    head = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    width: tl.constexpr = heads * head_dim
    length = frames
    if has_lengths:
        length = tl.load(lengths + row).to(tl.int32)
    # Offsets within a row of the batch fit into 32 bits.
    query += row * row_stride + head * head_stride
    key += row * row_stride + head * head_stride
    value += row * row_stride + head * head_stride
    mixed += row * frames * width + head * head_dim
    columns = tl.arange(0, head_dim)
    places = first + tl.arange(0, queries)
    made = mixed + places[:, None] * width + columns[None, :]
    if first >= length:
        nothing = tl.zeros([queries, head_dim], mixed.dtype.element_ty)
        tl.store(made, nothing, mask=places[:, None] < frames)
        return
    asked = tl.load(
        query + places[:, None] * frame_stride + columns[None, :],
        mask=places[:, None] < length,
        other=0.0,
    )
    largest = tl.full([queries], -1e30, tl.float32)
    total = tl.zeros([queries], tl.float32)
    summed = tl.zeros([queries, head_dim], tl.float32)
    within = tl.arange(0, keys)
    block = within[:, None] * frame_stride + columns[None, :]
    full = length // keys * keys
    for _ in range(0, full, keys):
        scores = tl.dot(asked, tl.trans(tl.load(key + block)))
        highest = tl.maximum(largest, tl.max(scores, 1) * scale)
        weights = tl.exp2(scores * scale - highest[:, None])
        shrink = tl.exp2(largest - highest)
        total = total * shrink + tl.sum(weights, 1)
        summed = summed * shrink[:, None]
        summed = tl.dot(weights.to(value.dtype.element_ty), tl.load(value + block), summed)
        largest = highest
        key += keys * frame_stride
        value += keys * frame_stride
    if full < length:  # the last keys, fewer than a block
        known = (full + within) < length
        scores = tl.dot(asked, tl.trans(tl.load(key + block, mask=known[:, None], other=0.0)))
        scores = tl.where(known[None, :], scores * scale, -1e30)
        highest = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - highest[:, None])
        shrink = tl.exp2(largest - highest)
        total = total * shrink + tl.sum(weights, 1)
        summed = summed * shrink[:, None]
        values = tl.load(value + block, mask=known[:, None], other=0.0)
        summed = tl.dot(weights.to(value.dtype.element_ty), values, summed)
    summed = summed / total[:, None]
    tl.store(made, summed.to(mixed.dtype.element_ty), mask=places[:, None] < frames)


@triton.jit
def _rotated(values, cosine, sine, frames: tl.constexpr, pairs: tl.constexpr):
    even, odd = tl.split(tl.reshape(values.to(tl.float32), [frames, pairs, 2]))
    turned = tl.join(even * cosine - odd * sine, odd * cosine + even * sine)
    return tl.reshape(turned, [frames, 2 * pairs])


@triton.jit
def _rotate(
    query,  # [B, T, heads, head_dim], as key; head 0 is changed
    key,
    rotation,  # float32 [T, pairs, 2] or [B, T, pairs, 2], cosine and sine
    row_stride,
    frame_stride,
    rotation_stride,  # from row to row of the batch
    frames,
    pairs: tl.constexpr,
    block: tl.constexpr,
    early: tl.constexpr,
):
    if early:
        gdc_launch_dependents()
        gdc_wait()
    places = tl.program_id(0) * block + tl.arange(0, block)
    row = tl.program_id(1).to(tl.int64)
    columns = tl.arange(0, 2 * pairs)
    inside = places[:, None] < frames
    query += row * row_stride
    key += row * row_stride
    offsets = places[:, None] * frame_stride + columns[None, :]
    angles = tl.load(
        rotation + row * rotation_stride + places[:, None] * (2 * pairs) + columns[None, :],
        mask=inside,
        other=0.0,
    )
    cosine, sine = tl.split(tl.reshape(angles, [block, pairs, 2]))
    own = tl.load(query + offsets, mask=inside, other=0.0)
    turned = _rotated(own, cosine, sine, block, pairs)
    tl.store(query + offsets, turned.to(query.dtype.element_ty), mask=inside)
    own = tl.load(key + offsets, mask=inside, other=0.0)
    turned = _rotated(own, cosine, sine, block, pairs)
    tl.store(key + offsets, turned.to(key.dtype.element_ty), mask=inside)


_ROTATED_FRAMES = 32  # of a block


def rotate_first_heads(
    query: Tensor, key: Tensor, rotation: Tensor, *, early: bool = False
) -> None:
    """As :func:`gsv.models.dit.rotate_first_heads`; both have the same strides.

    ``early`` is that of :func:`attend`.
    """
    rows, frames, _, head_dim = query.shape
    _check_strides(query, key)
    numbers = torch.view_as_real(rotation).contiguous()
    _rotate[(triton.cdiv(frames, _ROTATED_FRAMES), rows)](
        query,
        key,
        numbers,
        query.stride(0),
        query.stride(1),
        numbers.stride(0) if rotation.ndim == 3 else 0,
        frames,
        pairs=head_dim // 2,
        block=_ROTATED_FRAMES,
        num_warps=2,
        early=early,
        **({"launch_pdl": True} if early else {}),
    )


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor | None,
    tiles: Tiles | None = None,
    *,
    early: bool = False,
) -> Tensor:
    """As :func:`gsv.models.attention.attend`, for bfloat16 and float16.

    Query, key and value have the same strides. What is beyond a row's length is finite.

    Args:
        query, key, value, lengths: as there.
        tiles: how the work is cut; None chooses by its size.
        early: start before the last kernel's end and wait for it then; from compute capability 9.0
            on.
    """
    rows, frames, heads, head_dim = query.shape
    _check_strides(query, key, value)
    if tiles is None:
        tiles = _SMALL if rows * heads * triton.cdiv(frames, 128) < _FEW_BLOCKS else _LARGE
    mixed = torch.empty(rows, frames, heads * head_dim, dtype=query.dtype, device=query.device)
    _attend[(triton.cdiv(frames, tiles.queries), heads, rows)](
        query,
        key,
        value,
        mixed,
        query if lengths is None else lengths,
        *query.stride()[:3],
        frames,
        _LOG2_E / math.sqrt(head_dim),
        heads=heads,
        head_dim=head_dim,
        has_lengths=lengths is not None,
        queries=tiles.queries,
        keys=tiles.keys,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        early=early,
        **({"launch_pdl": True} if early else {}),
    )
    return mixed


def _check_strides(*parts: Tensor) -> None:
    first = parts[0].stride()
    if first[-1] != 1 or any(part.stride() != first for part in parts):
        raise ValueError(
            f"strides {[part.stride() for part in parts]}: must be the same, and 1 at the end"
        )
