"""Low-rank changes of the estimator's attention (LoRA, Hu et al. 2021), a different one each row.

The base weights are shared by all rows; each row adds ``up @ down`` of its own voice. Ranks are
mixed by filling up with zeros, which change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PROJECTIONS = ("query", "key", "value", "output")
_INPUTS = 3  # of them read the block's input, and the last one reads what attention mixed


@dataclass(frozen=True)
class Adapter:
    """What one voice adds.

    Attributes:
        down: [depth, 4, rank, D], in the order of ``PROJECTIONS``.
        up: [depth, 4, D, rank].
        frequencies: float32 [head_dim / 2], the voice's own rotary frequencies.
    """

    down: Tensor
    up: Tensor
    frequencies: Tensor

    @property
    def rank(self) -> int:
        """Of all its projections."""
        return self.down.shape[2]


@dataclass(frozen=True)
class BlockAdapters:
    """What the rows of a batch add in one block.

    Attributes:
        down: [B, 3 * R, D] of query, key and value.
        up: [4, B, D, R].
        down_output: [B, R, D].
    """

    down: Tensor
    up: Tensor
    down_output: Tensor

    def add_to_inputs(self, values: Tensor, projected: Sequence[Tensor]) -> None:
        """Add the rows' changes to query, key and value [B, T, D] of ``values``, in place."""
        inner = torch.bmm(values.to(self.down.dtype), self.down.mT).chunk(_INPUTS, dim=-1)
        for base, low, up in zip(projected, inner, self.up[:_INPUTS], strict=True):
            base.baddbmm_(low, up.mT)

    def add_to_output(self, mixed: Tensor, projected: Tensor) -> Tensor:
        """The output projection [B, T, D] of ``mixed`` with the rows' changes."""
        inner = torch.bmm(mixed.to(self.down_output.dtype), self.down_output.mT)
        return torch.baddbmm(projected, inner, self.up[_INPUTS].mT)


@dataclass(frozen=True)
class BatchAdapters:
    """What the rows of a batch add in every block.

    Attributes:
        blocks: one entry a block.
        frequencies: float32 [B, head_dim / 2].
    """

    blocks: list[BlockAdapters]
    frequencies: Tensor


def gather(adapters: Sequence[Adapter | None], frequencies: Tensor) -> BatchAdapters | None:
    """The adapters of a batch's rows, side by side; None when no row has one.

    Args:
        adapters: of each row; None for the base's.
        frequencies: the base's.
    """
    given = [adapter for adapter in adapters if adapter is not None]
    if not given:
        return None
    rank = max(adapter.rank for adapter in given)
    depth, count, _, width = given[0].down.shape
    rows = len(adapters)
    down = given[0].down.new_zeros(depth, rows, count, rank, width)
    up = given[0].up.new_zeros(depth, count, rows, width, rank)
    for row, adapter in enumerate(adapters):
        if adapter is not None:
            down[:, row, :, : adapter.rank] = adapter.down
            up[:, :, row, :, : adapter.rank] = adapter.up
    turned = [frequencies.float() if a is None else a.frequencies for a in adapters]
    blocks = [
        BlockAdapters(
            down=of_rows[:, :_INPUTS].flatten(1, 2),
            up=up_rows,
            down_output=of_rows[:, _INPUTS],
        )
        for of_rows, up_rows in zip(down, up, strict=True)
    ]
    return BatchAdapters(blocks, torch.stack(turned))
