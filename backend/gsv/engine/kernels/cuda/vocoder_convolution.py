"""The vocoder's residual convolutions with what lies around them, each in one kernel.

Leaky ReLU, convolution, bias and residual sum are five passes apart; here the values go through
once. As in ``flow_convolution``, a convolution is a long matrix product over taps and channels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gsv.models.vocoder import ActivatedConv1d

_BUSY = 264  # blocks that keep a large GPU busy


# Compiled once for each number of channels and tile, and not for each kind of layer: a vocoder has
# 60 kinds, and a start is waited for.
@triton.jit(do_not_specialize=["frames", "taps", "dilation"])
def _convolve(
    source,  # [B, T, C]
    weight,  # [taps, inputs, outputs] in half precision
    bias,  # [C]
    residual,  # [B, T, C]
    made,  # [B, T, C]
    frames,
    taps,
    dilation,
    slope,
    channels: tl.constexpr,
    activates_input: tl.constexpr,
    activates_output: tl.constexpr,
    adds: tl.constexpr,
    block: tl.constexpr,  # of frames
    inputs: tl.constexpr,  # of a step
    outputs: tl.constexpr,  # of a block
):
    first = tl.program_id(0) * block
    row = tl.program_id(2).to(tl.int64)
    source += row * frames * channels
    made += row * frames * channels
    places = first + tl.arange(0, block)
    heard_channels = tl.arange(0, inputs)
    columns = tl.program_id(1) * outputs + tl.arange(0, outputs)
    square = heard_channels[:, None] * channels + columns[None, :]
    steps: tl.constexpr = channels // inputs
    total = tl.zeros([block, outputs], tl.float32)
    for step in range(taps * steps):
        tap = step // steps
        begin = (step % steps) * inputs
        heard = places + (tap - taps // 2) * dilation
        inside = (heard >= 0) & (heard < frames)
        own = tl.load(
            source + heard[:, None] * channels + (begin + heard_channels)[None, :],
            mask=inside[:, None],
            other=0.0,
        )
        if activates_input:
            own = tl.where(own >= 0, own, own * slope)
        matrix = tl.load(weight + (tap * channels + begin) * channels + square)
        total = tl.dot(own.to(weight.dtype.element_ty), matrix, total)
    total += tl.load(bias + columns)[None, :].to(tl.float32)
    if activates_output:
        total = tl.where(total >= 0, total, total * slope)
    offsets = places[:, None] * channels + columns[None, :]
    kept = places[:, None] < frames
    if adds:
        residual += row * frames * channels
        total += tl.load(residual + offsets, mask=kept, other=0.0)
    tl.store(made + offsets, total.to(made.dtype.element_ty), mask=kept)


class ConvolutionKernel:
    """One layer's weights as the kernel reads them, in bfloat16 or float16.

    Two layers in a row may share the activation between them: the first one's answer is activated
    before it is rounded, and the second one takes it as it is.

    Args:
        layer: its weights are final.
        activates_input: the layer's own activation; False where the input has had it.
        activates_output: the next layer's.
    """

    def __init__(
        self,
        layer: ActivatedConv1d,
        *,
        activates_input: bool = True,
        activates_output: bool = False,
    ) -> None:
        assert layer.bias is not None
        self._weight = layer.weight.detach().permute(2, 1, 0).contiguous()
        self._bias = layer.bias.detach().contiguous()
        self._slope, self._dilation = layer.slope, layer.dilation[0]
        self._activates = activates_input, activates_output

    def __call__(self, values: Tensor, residual: Tensor | None = None) -> Tensor:
        """As :class:`ActivatedConv1d`; [B, T, C] to [B, T, C], with a residual in its type."""
        values = values.contiguous()
        rows, frames, channels = values.shape
        dtype = self._weight.dtype if residual is None else residual.dtype
        made = torch.empty(values.shape, dtype=dtype, device=values.device)
        outputs = min(channels, 128)
        block = 128
        while block > 64 and rows * triton.cdiv(frames, block) * (channels // outputs) < _BUSY:
            if outputs > 64:
                outputs //= 2
            else:
                block //= 2
        _convolve[(triton.cdiv(frames, block), channels // outputs, rows)](
            values,
            self._weight,
            self._bias,
            values if residual is None else residual.contiguous(),
            made,
            frames,
            self._weight.shape[0],
            self._dilation,
            self._slope,
            channels=channels,
            activates_input=self._activates[0],
            activates_output=self._activates[1],
            adds=residual is not None,
            block=block,
            inputs=min(channels, 64),
            outputs=outputs,
            num_warps=8 if block * outputs > 128 * 64 else 4,
            # Within the 99 KiB of shared memory that GPUs have which are smaller than an H100.
            num_stages=2 if block * outputs > 128 * 64 else 3,
        )
        return made
