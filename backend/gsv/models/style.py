"""The reference's spectrum to one vector of timbre."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from gsv.config import SoVITSConfig
from gsv.device import upload
from gsv.models.masking import keep_rows, key_mask, row_mask


class GatedConvolution(nn.Module):
    """Residual convolution over time, half of whose channels gate the other half."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(channels, 2 * channels, kernel, padding=kernel // 2)

    def forward(self, values: Tensor, mask: Tensor | None) -> Tensor:
        convolved = self.convolution(keep_rows(values, mask).mT).mT
        return values + nn.functional.glu(convolved, dim=-1)


class StyleAttention(nn.Module):
    """Residual self-attention without a norm."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, values: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = (
            layer(values).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        # Scaled by the model's width where a head's is usual: the weights were trained with it.
        mixed = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=key_mask(mask), scale=1 / math.sqrt(values.shape[-1])
        )
        attended: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return values + attended


class StyleEncoder(nn.Module):
    """Mean over time of what two layers, two gated convolutions and one attention make."""

    def __init__(self, config: SoVITSConfig) -> None:
        super().__init__()
        hidden = config.style_hidden
        self.spectral_in = nn.Linear(config.style_bins, hidden)
        self.spectral_out = nn.Linear(hidden, hidden)
        self.temporal = nn.ModuleList(
            GatedConvolution(hidden, config.style_kernel) for _ in range(2)
        )
        self.attention = StyleAttention(hidden, config.style_heads)
        self.output = nn.Linear(hidden, config.gin_channels)

    def forward(self, spectrum: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """Timbre of a recording.

        Args:
            spectrum: [B, 704, T], linear magnitudes (no logarithm).
            lengths: frames of each row; None when every row has T.

        Returns:
            [B, gin_channels, 1]
        """
        mask = row_mask(lengths, spectrum.shape[-1], spectrum.device)
        mish = nn.functional.mish
        values = mish(self.spectral_out(mish(self.spectral_in(spectrum.mT))))
        for block in self.temporal:
            values = block(values, mask)
        values = keep_rows(self.output(self.attention(values, mask)), mask)
        summed = values.sum(1)[..., None]
        if lengths is None:
            return summed / spectrum.shape[-1]
        return summed / upload(np.array(lengths, np.float32)[:, None, None], spectrum.device)
