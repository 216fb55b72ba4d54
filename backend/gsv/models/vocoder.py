"""Mel frames to a 48 kHz wave: transposed convolutions, each followed by residual ones."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from gsv.config import VocoderConfig

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

    def forward(self, mel: Tensor) -> Tensor:
        """[B, mel, T] to [B, 1, 480 * T]; every row fills the tensor."""
        values = self.input(mel)
        for stage in self.stages:
            values = stage(values)
        return torch.tanh(self.output(functional.leaky_relu(values, _FINAL_SLOPE)))

    def vocode(
        self, mels: Sequence[Tensor], limit: int, multiple: int = 1, batch_frames: int = 0
    ) -> list[Tensor]:
        """Waves of mels of any length, in bounded memory.

        Each mel is cut into windows that see all the frames their samples depend on, so a wave
        is what :meth:`forward` gives for its mel alone. Windows of equal size share a batch.

        Args:
            mels: [mel, T] each.
            limit: largest window in frames, above ``2 * context_frames``.
            multiple: windows are of a multiple of this many frames; more than 1 makes mels of
                different lengths share batches, at the price of some frames computed twice.
            batch_frames: frames of all windows of a batch; 0 is one window a batch.

        Returns:
            [480 * T] each.
        """
        sizes: dict[int, list[tuple[int, Window]]] = defaultdict(list)
        for row, mel in enumerate(mels):
            for window in windows(mel.shape[-1], self.context_frames, limit, multiple):
                sizes[window.size].append((row, window))
        waves = [mel.new_empty(mel.shape[-1] * self.samples_per_frame) for mel in mels]
        for size, pieces in sizes.items():
            step = max(1, batch_frames // size)
            for first in range(0, len(pieces), step):
                batch = pieces[first : first + step]
                stacked = torch.stack([mels[row][:, w.start : w.start + size] for row, w in batch])
                for (row, window), wave in zip(batch, self(stacked)[:, 0], strict=True):
                    window.copy(wave, waves[row], self.samples_per_frame)
        return waves


@dataclass(frozen=True)
class Window:
    """Frames ``start`` to ``start + size`` of a mel, of which ``first`` to ``last`` are kept."""

    start: int
    size: int
    first: int
    last: int

    def copy(self, computed: Tensor, wave: Tensor, scale: int) -> None:
        """Copy the kept part of the window's samples to its place in the whole wave."""
        begin, end = self.first - self.start, self.last - self.start
        wave[self.first * scale : self.last * scale] = computed[begin * scale : end * scale]


class MelStream:
    """Windows of a mel that arrives in pieces; the waves of their kept parts join exactly."""

    def __init__(self, context: int) -> None:
        self._context = context
        self._held: Tensor | None = None  # context before what is not yet given, and that itself
        self._before = 0  # frames of it that were given already

    def push(self, mel: Tensor, *, last: bool) -> tuple[Tensor, int, int] | None:
        """Take more frames [mel, n]; n may be 0 with ``last``.

        Returns:
            The next window [mel, size] and the frames of it, ``first`` to ``end``, whose samples
            are to be kept; None while the frames at hand lack context behind them.
        """
        held = mel if self._held is None else torch.cat([self._held, mel], dim=-1)
        first, end = self._before, held.shape[-1] - (0 if last else self._context)
        if end <= first:
            self._held = held
            return None
        start = max(0, end - self._context)
        self._held, self._before = held[:, start:], end - start
        return held, first, end


def windows(frames: int, context: int, limit: int, multiple: int = 1) -> list[Window]:
    """Cover ``frames`` with the fewest windows of one size.

    A window's ends are either the mel's own or ``context`` frames away from what is kept. The
    size is at most ``limit`` and a multiple of ``multiple``; a mel that is too short for that is
    one window of its own length.
    """
    if limit <= 2 * context:
        raise ValueError(f"windows of {limit} frames: must be above twice the context, {context}")
    inner = frames - 2 * context
    for count in range(1, max(inner, 1) + 1):
        size = -(-inner // count) + 2 * context
        size = -(-size // multiple) * multiple
        if size <= min(frames, limit):
            break
    else:
        size = frames
    cover: list[Window] = []
    kept = 0
    while kept < frames:
        start = max(0, min(kept - context, frames - size))
        last = frames if start + size >= frames else start + size - context
        cover.append(Window(start, size, kept, last))
        kept = last
    return cover


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
