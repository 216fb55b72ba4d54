"""Sum, gate, layer norm and modulation in one pass over the frames.

Apart these are five passes over float32 values, which take a third of a step's time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

_EPS = 1e-6
_WARPS = 4


@triton.jit
def _add_and_norm(
    values,  # float32 [B, T, D], changed if there is something to add
    hidden,  # [B, T, D]
    gate,  # float32 [B, D], as scale and shift
    scale,
    shift,
    normed,  # [B, T, D]
    gate_stride,  # from row to row of the batch
    scale_stride,
    shift_stride,
    frames,
    width: tl.constexpr,
    block: tl.constexpr,  # width, rounded up to a power of two
    adds: tl.constexpr,
    eps: tl.constexpr,
    early: tl.constexpr,
):
    frame = tl.program_id(0).to(tl.int64)  # of all rows
    row = frame // frames
    columns = tl.arange(0, block)
    inside = columns < width
    places = frame * width + columns
    factor = 1.0 + tl.load(scale + row * scale_stride + columns, mask=inside, other=0.0)
    offset = tl.load(shift + row * shift_stride + columns, mask=inside, other=0.0)
    if early:
        gdc_launch_dependents()
        gdc_wait()
    own = tl.load(values + places, mask=inside, other=0.0)
    if adds:
        added = tl.load(hidden + places, mask=inside, other=0.0).to(tl.float32)
        own += added * tl.load(gate + row * gate_stride + columns, mask=inside, other=0.0)
        tl.store(values + places, own, mask=inside)
    centred = tl.where(inside, own - tl.sum(own, 0) / width, 0.0)
    centred *= tl.rsqrt(tl.sum(centred * centred, 0) / width + eps)
    made = centred * factor + offset
    tl.store(normed + places, made.to(normed.dtype.element_ty), mask=inside)


def add_and_norm(
    values: Tensor,
    hidden: Tensor | None,
    gate: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    dtype: torch.dtype,
    *,
    early: bool = False,
) -> tuple[Tensor, Tensor]:
    """As :func:`gsv.models.dit.add_and_norm`; ``values`` is contiguous and changed in place.

    Args:
        values, hidden, gate, scale, shift, dtype: as there.
        early: start before the last kernel's end and wait for it then; from compute capability 9.0
            on. Scale and shift must have been there for longer.
    """
    rows, frames, width = values.shape
    normed = torch.empty(values.shape, dtype=dtype, device=values.device)
    adds = hidden is not None and gate is not None
    _add_and_norm[(rows * frames,)](
        values,
        hidden.contiguous() if hidden is not None else values,
        gate if gate is not None else scale,
        scale,
        shift,
        normed,
        _row_stride(gate if gate is not None else scale, rows),
        _row_stride(scale, rows),
        _row_stride(shift, rows),
        frames,
        width=width,
        block=triton.next_power_of_2(width),
        adds=adds,
        eps=_EPS,
        num_warps=_WARPS,
        early=early,
        **({"launch_pdl": True} if early else {}),
    )
    return values, normed


def _row_stride(parts: Tensor, rows: int) -> int:
    """Elements from row to row of [B, D] or [1, D]; its columns are side by side."""
    return 0 if len(parts) == 1 and rows > 1 else parts.stride(0)
