"""Linear layers and convolutions that may hold their weights in low precision.

Activations flow in float32 between them (residual sums, norms, softmax); a layer casts what it
reads to its weights' type and answers in that type. With float32 weights nothing is cast.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Linear(nn.Linear):
    """``nn.Linear`` that casts its input to the type of its weights."""

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values.to(self.weight.dtype))


class Conv1d(nn.Conv1d):
    """``nn.Conv1d`` that casts its input to the type of its weights."""

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values.to(self.weight.dtype))


def set_precision(module: nn.Module, dtype: torch.dtype) -> None:
    """Hold the weights of ``module``'s own :class:`Linear` and :class:`Conv1d` layers as ``dtype``.

    All other parameters (norms, embeddings, frequencies) and plain ``nn`` layers stay float32:
    there rounding is heard and no time is spent.
    """
    for layer in module.modules():
        if isinstance(layer, Linear | Conv1d):
            layer.to(dtype)
