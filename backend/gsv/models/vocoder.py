"""Mel frames to a 48 kHz wave: transposed convolutions, each followed by residual ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from gsv.config import VocoderConfig
from gsv.models.layers import set_precision

_SLOPE = 0.1
_FINAL_SLOPE = 0.01  # upstream leaves PyTorch's default at the last activation
_EDGE_KERNEL = 7  # of the first and the last convolution


class ResidualBlock(nn.Module):
    """Three dilated convolutions, each with an undilated one after it and a residual around."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.dilated = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=d, padding=d * (kernel - 1) // 2)
            for d in dilations
        )
        self.plain = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, padding=(kernel - 1) // 2) for _ in dilations
        )

    def forward(self, values: Tensor) -> Tensor:
        for dilated, plain in zip(self.dilated, self.plain, strict=True):
            hidden = dilated(functional.leaky_relu(values, _SLOPE))
            values = values + plain(functional.leaky_relu(hidden, _SLOPE))
        return values


class Stage(nn.Module):
    """Raise the rate, then the mean of residual blocks with different kernels."""

    def __init__(self, channels: int, rate: int, kernel: int, config: VocoderConfig) -> None:
        super().__init__()
        self.rate = rate
        self.upsample = nn.ConvTranspose1d(
            channels, channels // 2, kernel, stride=rate, padding=(kernel - rate) // 2
        )
        self.blocks = nn.ModuleList(
            ResidualBlock(channels // 2, block_kernel, dilations)
            for block_kernel, dilations in zip(
                config.resblock_kernels, config.resblock_dilations, strict=True
            )
        )

    def forward(self, values: Tensor) -> Tensor:
        values = self.upsample(functional.leaky_relu(values, _SLOPE))
        total = self.blocks[0](values)
        for block in self.blocks[1:]:
            total = total + block(values)
        mean: Tensor = total / len(self.blocks)
        return mean


class Vocoder(nn.Module):
    """Log-mel frames (denormalised) to samples in [-1, 1]."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.samples_per_frame = math.prod(config.upsample_rates)
        self.context_frames = context_frames(config)
        channels = config.initial_channels
        padding = _EDGE_KERNEL // 2
        self.input = nn.Conv1d(config.mel_channels, channels, _EDGE_KERNEL, padding=padding)
        self.stages = nn.ModuleList()
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernels, strict=True):
            self.stages.append(Stage(channels, rate, kernel, config))
            channels //= 2
        self.output = nn.Conv1d(channels, 1, _EDGE_KERNEL, padding=padding)

    def set_precision(self, dtype: torch.dtype) -> None:
        """Hold the weights as ``dtype``."""
        set_precision(self, dtype)

    def forward(self, mel: Tensor) -> Tensor:
        """[B, mel, T] to [B, 1, 480 * T]; every row fills the tensor."""
        values = self.input(mel)
        for stage in self.stages:
            values = stage(values)
        return torch.tanh(self.output(functional.leaky_relu(values, _FINAL_SLOPE)))


def context_frames(config: VocoderConfig) -> int:
    """Mel frames on each side that a frame's samples depend on: the receptive field's radius."""
    blocks = zip(config.resblock_kernels, config.resblock_dilations, strict=True)
    residual = max(
        sum((d + 1) * (kernel - 1) // 2 for d in dilations) for kernel, dilations in blocks
    )
    radius = _EDGE_KERNEL // 2  # in samples, at the rate of the layer that is looked at
    stages = list(zip(config.upsample_rates, config.upsample_kernels, strict=True))
    for rate, kernel in reversed(stages):
        padding = (kernel - rate) // 2
        radius += residual
        before = -(-(radius + kernel - 1 - padding) // rate)
        after = (radius + padding - 1) // rate + 1
        radius = max(before, after)
    return radius + _EDGE_KERNEL // 2
