"""Mel frames to a 48 kHz wave: transposed convolutions, each followed by residual ones.

Values lie as [B, T, channels] between the layers, see :class:`gsv.models.layers.RowConv1d`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from gsv.config import VOCODER_EDGE_KERNEL, VocoderConfig
from gsv.errors import ConfigurationError
from gsv.models.layers import RowConv1d, RowUpsample, set_precision
from gsv.models.windows import windows

_SLOPE = 0.1
_FINAL_SLOPE = 0.01  # upstream leaves PyTorch's default at the last activation
_CPU_BLOCK = 3 << 18  # values of a layer computed at once on a CPU: 3 MiB, so that they stay cached


class ActivatedConv1d(RowConv1d):
    """Leaky ReLU and then a convolution that keeps channels and length.

    ``kernel``, where somebody has set it, does the same faster.
    """

    def __init__(self, channels: int, taps: int, dilation: int) -> None:
        padding = dilation * (taps - 1) // 2
        super().__init__(channels, channels, taps, padding=padding, dilation=dilation)
        self.slope = _SLOPE
        self.kernel: Callable[[Tensor, Tensor | None], Tensor] | None = None

    def forward(self, values: Tensor, residual: Tensor | None = None) -> Tensor:
        """[B, T, C] to [B, T, C], with ``residual`` added if there is one."""
        if self.kernel is not None:
            return self.kernel(values, residual)
        made = super().forward(functional.leaky_relu(values, self.slope))
        return made if residual is None else residual + made


class ResidualBlock(nn.Module):
    """Three dilated convolutions, each with an undilated one after it and a residual around."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.dilated = nn.ModuleList(ActivatedConv1d(channels, kernel, d) for d in dilations)
        self.plain = nn.ModuleList(ActivatedConv1d(channels, kernel, 1) for _ in dilations)

    def forward(self, values: Tensor) -> Tensor:
        for dilated, plain in zip(self.dilated, self.plain, strict=True):
            values = plain(dilated(values), values)
        return values


class Stage(nn.Module):
    """Raise the rate, then the mean of residual blocks with different kernels."""

    def __init__(self, channels: int, rate: int, config: VocoderConfig) -> None:
        super().__init__()
        self.rate = rate
        self.context = config.stage_context(0, rate)
        self.block_frames = _CPU_BLOCK // (rate * channels // 2) + 2 * self.context
        self.upsample = RowUpsample(channels, channels // 2, rate)
        self.blocks = nn.ModuleList(
            ResidualBlock(channels // 2, kernel, dilations)
            for kernel, dilations in zip(
                config.resblock_kernels, config.resblock_dilations, strict=True
            )
        )

    def forward(self, values: Tensor) -> Tensor:
        """[B, T, channels] to [B, rate * T, channels / 2]."""
        if values.device.type != "cpu":
            return self._run(values)
        pieces = []
        for window in windows(values.shape[1], self.context, self.block_frames):
            made = self._run(values[:, window.start : window.start + window.size])
            first, last = window.first - window.start, window.last - window.start
            pieces.append(made[:, first * self.rate : last * self.rate])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    def _run(self, values: Tensor) -> Tensor:
        values = self.upsample(functional.leaky_relu(values, _SLOPE)).float()
        total = self.blocks[0](values)
        for block in self.blocks[1:]:
            total += block(values)
        mean: Tensor = total.div_(len(self.blocks))
        return mean


class Vocoder(nn.Module):
    """Log-mel frames (denormalised) to samples in [-1, 1]."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernels, strict=True):
            if kernel != 2 * rate:
                raise ConfigurationError(
                    f"vocoder: an upsampling kernel of {kernel} for rate {rate}; v4 has {2 * rate}"
                )
        self.samples_per_frame = math.prod(config.upsample_rates)
        self.context_frames = config.context_frames
        channels = config.initial_channels
        padding = VOCODER_EDGE_KERNEL // 2
        self.input = RowConv1d(config.mel_channels, channels, VOCODER_EDGE_KERNEL, padding=padding)
        self.stages = nn.ModuleList()
        for rate in config.upsample_rates:
            self.stages.append(Stage(channels, rate, config))
            channels //= 2
        self.output = RowConv1d(channels, 1, VOCODER_EDGE_KERNEL, padding=padding)

    def set_precision(self, dtype: torch.dtype) -> None:
        """Hold the weights as ``dtype``."""
        set_precision(self, dtype)

    def forward(self, mel: Tensor) -> Tensor:
        """[B, mel, T] to [B, 1, 480 * T]; every row fills the tensor."""
        values = self.input(mel.mT)
        for stage in self.stages:
            values = stage(values)
        wave = self.output(functional.leaky_relu(values, _FINAL_SLOPE))
        return torch.tanh(wave.float()).mT
