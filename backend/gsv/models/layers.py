"""Linear layers and convolutions in the precision and layout that a processor is fastest with.

Activations flow in float32 between them (residual sums, norms, softmax); a layer casts what it
reads to its weights' type and answers in that type. With float32 weights nothing is cast.

On a CPU the weights of linear layers are laid out once for oneDNN's kernels. Its float32 product is
twice as fast as the one behind ``nn.functional.linear`` on processors that MKL doesn't favour, and
an activation is applied while the result is still in the cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_OPERATORS = (
    "_linear_pointwise",
    "_reorder_linear_weight",
    "_convolution_pointwise",
    "_reorder_convolution_weight",
)
_PACKED_ROWS = 512  # input rows that the layout is chosen for; any number works
# Channels in a group from which oneDNN's own layout is the faster one. Of 64 channels, groups of 4
# took 1.3 ms in it and 0.2 ms in the plain one, groups of 32 took 0.34 and 0.41 ms.
_WIDE_GROUP = 32


def gelu_tanh(values: Tensor) -> Tensor:
    """GELU in its tanh form."""
    return F.gelu(values, approximate="tanh")


# What oneDNN calls the activations that it can apply itself: name and algorithm.
_FUSED: dict[Callable[[Tensor], Tensor] | None, tuple[str, str]] = {
    None: ("none", ""),
    gelu_tanh: ("gelu", "tanh"),
}


class Linear(nn.Linear):
    """``nn.Linear`` that casts its input to the type of its weights, with an activation after it.

    Args:
        inputs, outputs: channels.
        activation: :func:`gelu_tanh` or None.
        bias: whether it adds one.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        activation: Callable[[Tensor], Tensor] | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(inputs, outputs, bias)
        self.activation = activation
        self._packed: Tensor | None = None

    def pack(self) -> None:
        """Lay the weights out for oneDNN; afterwards they can't be read, saved or moved."""
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), _PACKED_ROWS)
        self.weight = nn.Parameter(self.weight.to("meta"), requires_grad=False)

    def forward(self, values: Tensor) -> Tensor:
        values = values.to(self.weight.dtype)
        if self._packed is not None:
            return onednn_linear(values, self._packed, self.bias, self.activation)
        if self.activation is gelu_tanh and _fuses_gelu(values):
            # One kernel; its GELU is the tanh form, and it reads the sums before they are rounded.
            fused: Any = torch._addmm_activation
            rows = fused(self.bias, values.flatten(0, -2), self.weight.mT, use_gelu=True)
            return cast(Tensor, rows.unflatten(0, values.shape[:-1]))
        values = super().forward(values)
        return values if self.activation is None else self.activation(values)


def _fuses_gelu(values: Tensor) -> bool:
    return values.device.type == "cuda" and values.dtype in (torch.bfloat16, torch.float16)


class RowConv1d(nn.Conv1d):
    """``nn.Conv1d`` over [B, T, C] that casts its input to the type of its weights.

    It runs as a 2-d convolution with its channels last, which is how the values lie: on CPU and GPU
    alike the kernels for that layout are the fast ones.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        taps: int,
        *,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(inputs, outputs, taps, padding=padding, dilation=dilation, groups=groups)
        self._packed: Tensor | None = None

    def pack(self) -> None:
        """Lay the weights out for oneDNN, as :meth:`Linear.pack`."""
        weight = self.weight.detach()[..., None]
        shape = [1, self.in_channels, _PACKED_ROWS, 1]
        self._packed = torch.ops.mkldnn._reorder_convolution_weight(
            weight, *self._geometry(), self.groups, shape
        )
        self.weight = nn.Parameter(self.weight.to("meta"), requires_grad=False)

    def put_channels_last(self) -> None:
        """Lay the weights out as the values lie, so that cuDNN need not do it at each call."""
        rows = self.weight.detach().permute(0, 2, 1).contiguous()
        self.weight = nn.Parameter(rows.permute(0, 2, 1), requires_grad=False)

    def _geometry(self) -> tuple[list[int], list[int], list[int]]:
        """Padding, stride and dilation of a convolution of width 1."""
        return [int(self.padding[0]), 0], [1, 1], [self.dilation[0], 1]

    def forward(self, values: Tensor) -> Tensor:
        values = values.to(self.weight.dtype)
        if self._packed is not None:
            # Time as the height, not the width: grouped kernels are up to five times as fast so.
            convolve: Any = torch.ops.mkldnn._convolution_pointwise
            layout = (*self._geometry(), self.groups)
            made: Tensor = convolve(
                values.mT[..., None], self._packed, self.bias, *layout, "none", [], ""
            )
            return made[..., 0].mT
        image = values.mT[:, :, None]  # [B, C, 1, T]
        convolved = F.conv2d(
            image,
            self.weight[:, :, None],
            self.bias,
            padding=(0, int(self.padding[0])),
            dilation=(1, *self.dilation),
            groups=self.groups,
        )
        return convolved[:, :, 0].mT


class RowUpsample(nn.Module):
    """A transposed convolution over [B, T, C] whose kernel is twice its stride.

    Each output sample hears two inputs, so it is a plain convolution of kernel 2 that makes all of
    a stride's samples at once, as channels, which only have to be read in order.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(inputs, outputs, 2 * stride))
        self.bias = nn.Parameter(torch.empty(outputs))
        self._packed: Tensor | None = None

    def pack(self) -> None:
        """Turn the weights into the plain convolution's once and for all."""
        self._packed = self._kernel()
        self.weight = nn.Parameter(self.weight.to("meta"), requires_grad=False)

    def _kernel(self) -> Tensor:
        """[stride * outputs, inputs, 1, 2]"""
        # Tap s of the transposed kernel hears the present input, tap stride + s the one before.
        present, before = self.weight.permute(2, 1, 0).chunk(2)  # [stride, outputs, inputs] each
        kernel = torch.stack([before, present], dim=-1).flatten(0, 1)
        return kernel[:, :, None].contiguous(memory_format=torch.channels_last)

    def forward(self, values: Tensor) -> Tensor:
        """[B, T, inputs] to [B, stride * T, outputs]; padded as upstream, half a stride a side."""
        rows, frames, _ = values.shape
        kernel = self._kernel() if self._packed is None else self._packed
        image = values.to(kernel.dtype).mT[:, :, None]
        bias = self.bias.repeat(self.stride)
        made = F.conv2d(image, kernel, bias, padding=(0, 1))  # [B, stride * outputs, 1, T + 1]
        samples = made[:, :, 0].mT.reshape(rows, (frames + 1) * self.stride, -1)
        margin = self.stride // 2
        return samples[:, margin : margin + frames * self.stride]


def onednn_linear(
    values: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """``values`` [..., K] times ``weight`` [N, K], packed or contiguous, by oneDNN on a CPU."""
    name, algorithm = _FUSED[activation]
    linear: Any = torch.ops.mkldnn._linear_pointwise
    product: Tensor = linear(values, weight, bias, name, [], algorithm)
    return product


def onednn_serves(values: Tensor) -> bool:
    """Whether oneDNN is there for tensors like ``values``: on a CPU that computes in their type.

    Its operators are not part of torch's documented interface, so their absence is an answer too.
    """
    return values.device.type == "cpu" and _onednn_computes(values.dtype)


@functools.cache
def _onednn_computes(dtype: torch.dtype) -> bool:
    operators: Any = torch.ops.mkldnn
    try:
        return {
            torch.float32: lambda: True,
            torch.bfloat16: operators._is_mkldnn_bf16_supported,
            torch.float16: operators._is_mkldnn_fp16_supported,
        }[dtype]() and all(hasattr(operators, name) for name in _OPERATORS)
    except (AttributeError, RuntimeError):
        return False


def set_precision(module: nn.Module, dtype: torch.dtype) -> None:
    """Hold the weights of the layers defined here, wherever they are in ``module``, as ``dtype``.

    They are also laid out for the processor that they are on: do it last. All other parameters
    (norms, embeddings, frequencies) and plain ``nn`` layers stay float32: there rounding is heard
    and no time is spent.
    """
    for layer in module.modules():
        if not isinstance(layer, Linear | RowConv1d | RowUpsample):
            continue
        if layer.weight.is_meta:
            raise RuntimeError("these weights are laid out already; set the precision only once")
        layer.to(dtype)
        if _gains_from_packing(layer):
            layer.pack()
        elif isinstance(layer, RowConv1d) and layer.weight.device.type == "cuda":
            layer.put_channels_last()


def _gains_from_packing(layer: Linear | RowConv1d | RowUpsample) -> bool:
    if isinstance(layer, RowUpsample):
        return True
    # Convolutions without groups are as fast from their plain weights, narrow groups faster.
    wide = isinstance(layer, Linear) or (
        layer.groups > 1 and layer.in_channels // layer.groups >= _WIDE_GROUP
    )
    return wide and onednn_serves(layer.weight)
