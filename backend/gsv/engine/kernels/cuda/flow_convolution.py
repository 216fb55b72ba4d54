"""The two grouped convolutions over time that tell a frame where it stands, each with its mish.

A group's convolution is the sum over taps of shifted frames times a tap's matrix, so it is one long
matrix product whose left side is never written down.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gsv.models.dit import PositionConvolution
from gsv.models.layers import RowConv1d

_FEW_BLOCKS = 264  # below so many blocks of 128 frames, smaller ones keep more of the GPU busy
_STAGES = 4


@triton.jit
def _convolve(
    source,  # [B, T, D] in half precision
    weight,  # [taps, groups, inputs, outputs]
    bias,  # [D]
    lengths,  # [B]
    made,  # [B, T, D]: written, or float32 and added to
    frames,
    width: tl.constexpr,
    channels: tl.constexpr,  # of a group
    taps: tl.constexpr,
    has_lengths: tl.constexpr,
    adds: tl.constexpr,
    block: tl.constexpr,
):
    first = tl.program_id(0) * block
    group = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    length = frames
    if has_lengths:
        length = tl.load(lengths + row).to(tl.int32)
    if first >= length:
        return
    columns = tl.arange(0, channels)
    places = first + tl.arange(0, block)
    source += row * frames * width + group * channels
    weight += group * channels * channels
    square = columns[:, None] * channels + columns[None, :]
    total = tl.zeros([block, channels], tl.float32)
    for tap in range(taps):
        heard = places + (tap - taps // 2)
        inside = (heard >= 0) & (heard < length)
        frame = tl.load(
            source + heard[:, None] * width + columns[None, :], mask=inside[:, None], other=0.0
        )
        total = tl.dot(frame, tl.load(weight + tap * width * channels + square), total)
    total += tl.load(bias + group * channels + columns)[None, :].to(tl.float32)
    # mish(x) = x * tanh(log(1 + e^x)), and tanh(log(1 + e)) = n / (n + 2) with n = e * (e + 2);
    # above 20 it is x to the last bit.
    power = tl.exp(tl.minimum(total, 20.0))
    ratio = power * (power + 2.0)
    total = total * (ratio / (ratio + 2.0))
    made += row * frames * width + group * channels
    target = made + places[:, None] * width + columns[None, :]
    kept = places[:, None] < length
    if adds:
        total += tl.load(target, mask=kept, other=0.0)
    tl.store(target, total.to(made.dtype.element_ty), mask=kept)


class PositionKernel:
    """As :class:`gsv.models.dit.PositionConvolution`, with weights in bfloat16 or float16.

    Beyond a row's length the values stay as they are. Make it when the weights are final.
    """

    def __init__(self, layer: PositionConvolution) -> None:
        self._layers = [_laid_out(layer.first), _laid_out(layer.second)]
        self._taps = layer.first.kernel_size[0]
        self._groups = layer.first.groups

    def __call__(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        """Add places to ``values``, float32 [B, T, D] and contiguous, in place."""
        dtype = self._layers[0][0].dtype
        hidden = torch.empty(values.shape, dtype=dtype, device=values.device)
        self._run(0, values.to(dtype), hidden, lengths)
        self._run(1, hidden, values, lengths)
        return values

    def _run(self, layer: int, source: Tensor, made: Tensor, lengths: Tensor | None) -> None:
        weight, bias = self._layers[layer]
        rows, frames, width = source.shape
        blocks = rows * self._groups * triton.cdiv(frames, 128)
        block = 64 if blocks < _FEW_BLOCKS else 128
        _convolve[(triton.cdiv(frames, block), self._groups, rows)](
            source,
            weight,
            bias,
            source if lengths is None else lengths,
            made,
            frames,
            width=width,
            channels=width // self._groups,
            taps=self._taps,
            has_lengths=lengths is not None,
            adds=layer == 1,
            block=block,
            num_warps=block // 16,
            num_stages=_STAGES,
        )


def _laid_out(layer: RowConv1d) -> tuple[Tensor, Tensor]:
    """Weight [taps, groups, inputs, outputs] and bias [D]."""
    assert layer.bias is not None
    outputs, inputs, taps = layer.weight.shape  # of all groups, of one
    grouped = layer.weight.detach().reshape(layer.groups, -1, inputs, taps)
    return grouped.permute(3, 0, 2, 1).contiguous(), layer.bias.detach().contiguous()
