"""Layers whose weights are left as the memory is, for networks that are loaded at once.

Random numbers for 300 million weights take seconds; and on the meta device, PyTorch's other way,
they import half of its compiler.
"""

from __future__ import annotations

import torch
from torch import nn


class Linear(nn.Linear):
    """As ``nn.Linear``."""

    def reset_parameters(self) -> None:
        """Nothing: the weights are to be loaded."""


class Conv1d(nn.Conv1d):
    """As ``nn.Conv1d``."""

    def reset_parameters(self) -> None:
        """Nothing: the weights are to be loaded."""


def embedding(rows: int, width: int) -> nn.Embedding:
    """As ``nn.Embedding``."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))
