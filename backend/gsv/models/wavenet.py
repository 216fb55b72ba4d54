"""The condition's smoother: gated convolutions over time, told the timbre in every layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gsv.config import SoVITSConfig
from gsv.models.layers import RowConv1d
from gsv.models.masking import keep_rows


class WaveNet(nn.Module):
    """Upstream's ``wns1``: eight undilated gated layers with residual and skip paths."""

    def __init__(self, config: SoVITSConfig) -> None:
        super().__init__()
        channels, layers = config.condition_channels, config.wavenet_layers
        kernel = config.wavenet_kernel
        self.channels = channels
        self.input = RowConv1d(channels, channels, 1)
        self.timbre = RowConv1d(config.gin_channels, 2 * channels * layers, 1)
        self.gates = nn.ModuleList(
            RowConv1d(channels, 2 * channels, kernel, padding=kernel // 2) for _ in range(layers)
        )
        # The last layer has no residual path, so all it makes is skip.
        self.outs = nn.ModuleList(
            RowConv1d(channels, channels if last else 2 * channels, 1)
            for last in (layer == layers - 1 for layer in range(layers))
        )
        self.output = RowConv1d(channels, channels, 1)

    def forward(self, values: Tensor, mask: Tensor | None, timbre: Tensor) -> Tensor:
        """Smooth ``values`` [B, T, C], told ``timbre`` [B, gin_channels, 1]."""
        values = keep_rows(self.input(values), mask)
        biases = self.timbre(timbre.mT).chunk(len(self.gates), dim=-1)
        skip = torch.zeros_like(values)
        for gate, out, bias in zip(self.gates, self.outs, biases, strict=True):
            signal, opening = (gate(values) + bias).chunk(2, dim=-1)
            made = out(torch.tanh(signal) * torch.sigmoid(opening))
            skip = skip + made[..., -self.channels :]
            if made.shape[-1] > self.channels:
                values = keep_rows(values + made[..., : self.channels], mask)
        return keep_rows(self.output(keep_rows(skip, mask)), mask)
