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
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_OPERATORS = ("_linear_pointwise", "_reorder_linear_weight")
_PACKED_ROWS = 512  # input rows that the layout is chosen for; any number works


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
    """

    def __init__(
        self, inputs: int, outputs: int, activation: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__(inputs, outputs)
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
        values = super().forward(values)
        return values if self.activation is None else self.activation(values)


class Conv1d(nn.Conv1d):
    """``nn.Conv1d`` that casts its input to the type of its weights."""

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values.to(self.weight.dtype))


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
    """Hold the weights of ``module``'s own :class:`Linear` and :class:`Conv1d` layers as ``dtype``.

    They are also laid out for the processor that they are on: do it last. All other parameters
    (norms, embeddings, frequencies) and plain ``nn`` layers stay float32: there rounding is heard
    and no time is spent.
    """
    for layer in module.modules():
        if isinstance(layer, Linear | Conv1d):
            layer.to(dtype)
        if isinstance(layer, Linear) and onednn_serves(layer.weight):
            layer.pack()
