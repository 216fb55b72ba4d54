"""The flow's estimator: a diffusion transformer that gives the velocity of noisy mel frames.

What stays the same over the steps of one job is computed apart and once: ``embed_condition`` and
``embed_inputs`` (the condition's and the prompt's share of the input projection) and ``modulate``
(every block's scales, shifts and gates, which depend on time and step size alone).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from gsv.config import SoVITSConfig
from gsv.models.adapters import BatchAdapters, BlockAdapters
from gsv.models.attention import attend
from gsv.models.layers import Linear, RowConv1d, gelu_tanh
from gsv.models.masking import keep_rows, length_mask

_NORM_EPS = 1e-6
_GRN_EPS = 1e-6
_FREQUENCY_BASE = 10_000.0
_TIME_CHANNELS = 256
_TIME_SCALE = 1000.0
_LAST_POSITION = 4095  # the condition's position embedding stays the same after it
_BLOCK_PARTS = 6  # shift, scale, gate of the attention; shift, scale, gate of the feed-forward


class TimeEmbedding(nn.Module):
    """A number in [0, 1] to a vector, through sinusoids and two layers; float32 throughout."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = _TIME_CHANNELS // 2
        steps = torch.arange(half, dtype=torch.float32)
        frequencies = torch.exp(steps * -(math.log(_FREQUENCY_BASE) / (half - 1)))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.expand = nn.Linear(_TIME_CHANNELS, width)
        self.output = nn.Linear(width, width)

    def forward(self, time: Tensor) -> Tensor:
        angles = _TIME_SCALE * time[:, None] * self.frequencies
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
        embedded: Tensor = self.output(functional.silu(self.expand(waves)))
        return embedded


class ResponseNorm(nn.Module):
    """Global response normalisation over a row's whole time axis (ConvNeXt V2, Woo et al. 2023)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(1, 1, channels))
        self.beta = nn.Parameter(torch.empty(1, 1, channels))

    def forward(self, values: Tensor, mask: Tensor | None) -> Tensor:
        energy: Tensor = torch.linalg.vector_norm(
            keep_rows(values, mask), dim=1, keepdim=True
        )  # [B, 1, C]
        response = energy / (energy.mean(-1, keepdim=True) + _GRN_EPS)
        return self.gamma * (values * response) + self.beta + values


class ConditionBlock(nn.Module):
    """A ConvNeXt V2 block over [B, T, C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=_NORM_EPS)
        self.expand = nn.Linear(channels, 2 * channels)
        self.response = ResponseNorm(2 * channels)
        self.reduce = nn.Linear(2 * channels, channels)

    def forward(self, values: Tensor, mask: Tensor | None) -> Tensor:
        hidden = self.norm(self.depthwise(keep_rows(values, mask).mT).mT)
        hidden = self.response(functional.gelu(self.expand(hidden)), mask)
        reduced: Tensor = self.reduce(hidden)
        return values + reduced


class ConditionEmbedding(nn.Module):
    """Positions and ConvNeXt blocks over the condition; float32, for it runs once a job."""

    frequencies: Tensor

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        exponents = torch.arange(0, channels, 2, dtype=torch.float32) / channels
        self.register_buffer("frequencies", 1.0 / _FREQUENCY_BASE**exponents, persistent=False)
        self.blocks = nn.ModuleList(ConditionBlock(channels) for _ in range(layers))

    def forward(self, condition: Tensor, mask: Tensor | None) -> Tensor:
        positions = torch.arange(condition.shape[1], device=condition.device)
        angles = positions.clamp(max=_LAST_POSITION)[:, None] * self.frequencies
        values = condition + torch.cat([angles.cos(), angles.sin()], dim=-1)
        for block in self.blocks:
            values = block(values, mask)
        return keep_rows(values, mask)


class PositionConvolution(nn.Module):
    """Two wide grouped convolutions that tell a frame where it stands."""

    def __init__(self, width: int, kernel: int = 31, groups: int = 16) -> None:
        super().__init__()
        self.first = RowConv1d(width, width, kernel, padding=kernel // 2, groups=groups)
        self.second = RowConv1d(width, width, kernel, padding=kernel // 2, groups=groups)

    def forward(self, values: Tensor, mask: Tensor | None) -> Tensor:
        hidden = functional.mish(self.first(keep_rows(values, mask)))
        return functional.mish(self.second(keep_rows(hidden, mask)))


class Attention(nn.Module):
    """Self-attention whose first head alone knows positions.

    ``kernel``, where somebody has set it, does the same as :func:`attend` faster.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.kernel: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor] | None = None
        self.query = Linear(width, width)
        self.key = Linear(width, width)
        self.value = Linear(width, width)
        self.output = Linear(width, width)

    def forward(
        self,
        values: Tensor,
        lengths: Tensor | None,
        rotation: Tensor,
        adapters: BlockAdapters | None = None,
    ) -> Tensor:
        values = values.to(self.query.weight.dtype)
        projected = [layer(values) for layer in (self.query, self.key, self.value)]
        if adapters is not None:
            projected = adapters.add_to_inputs(values, projected)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1))  # [B, T, heads, head_dim]
            for part in projected
        )
        _rotate_first_head(query, rotation)
        _rotate_first_head(key, rotation)
        mixed = (self.kernel or attend)(query, key, value, lengths)
        made: Tensor = self.output(mixed)
        return made if adapters is None else adapters.add_to_output(mixed, made)


def _rotate_first_head(values: Tensor, rotation: Tensor) -> None:
    """Turn the pairs (2i, 2i + 1) of head 0 by unit numbers ``rotation`` [..., T, head_dim / 2].

    Upstream rotates before it splits the heads, and only as many channels as one head has; the
    weights were trained so.
    """
    head = values[:, :, 0]
    pairs = torch.view_as_complex(head.float().reshape(*head.shape[:-1], -1, 2))
    head.copy_(torch.view_as_real(pairs * rotation).flatten(-2))


class Block(nn.Module):
    """Attention and feed-forward, both modulated and gated by time."""

    def __init__(self, config: SoVITSConfig) -> None:
        super().__init__()
        width = config.dit_dim
        self.attention = Attention(width, config.dit_heads)
        self.expand = Linear(width, config.dit_ff_mult * width, activation=gelu_tanh)
        self.reduce = Linear(config.dit_ff_mult * width, width)

    def forward(
        self,
        values: Tensor,
        parts: Tensor,
        lengths: Tensor | None,
        rotation: Tensor,
        adapters: BlockAdapters | None = None,
    ) -> Tensor:
        """``values`` [B, T, D], ``parts`` [B, 6 * D]."""
        shift, scale, gate, ff_shift, ff_scale, ff_gate = parts[:, None].chunk(_BLOCK_PARTS, -1)
        normed = modulated_norm(values, scale, shift)
        hidden = self.attention(normed, lengths, rotation, adapters)
        values = torch.addcmul(values, gate, hidden)
        hidden = self.expand(modulated_norm(values, ff_scale, ff_shift))
        hidden = self.reduce(hidden)
        return torch.addcmul(values, ff_gate, hidden)


def modulated_norm(values: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Layer norm without weights of its own, then ``(1 + scale)`` and ``shift`` [B, 1, D]."""
    shape = values.shape[-1:]
    if values.device.type == "cpu" or len(values) == 1:
        # As a norm with weights it is one pass over the row instead of three.
        parts = zip(values, (1 + scale)[:, 0], shift[:, 0], strict=True)
        normed = [functional.layer_norm(row, shape, w, b, _NORM_EPS) for row, w, b in parts]
        return normed[0][None] if len(normed) == 1 else torch.stack(normed)
    return torch.addcmul(shift, functional.layer_norm(values, shape, eps=_NORM_EPS), 1 + scale)


class DiT(nn.Module):
    """Velocity of mel frames, given condition, prompt, time and step size."""

    inverse_frequencies: Tensor

    def __init__(self, config: SoVITSConfig) -> None:
        super().__init__()
        width, mel = config.dit_dim, config.mel_channels
        self.mel_channels = mel
        self.time = TimeEmbedding(width)
        self.step_size = TimeEmbedding(width)
        self.condition = ConditionEmbedding(config.condition_channels, config.dit_conv_layers)
        self.input = nn.Linear(2 * mel + config.condition_channels, width)
        self.position = PositionConvolution(width)
        # From the file: fp16 files hold rounded frequencies, and upstream turns by those.
        self.register_buffer("inverse_frequencies", torch.empty(config.dit_head_dim // 2))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.dit_depth))
        self.modulations = nn.ModuleList(
            Linear(width, _BLOCK_PARTS * width) for _ in range(config.dit_depth)
        )
        self.final_modulation = Linear(width, 2 * width)
        self.output = Linear(width, mel)

    def embed_condition(self, condition: Tensor, lengths: Tensor | None = None) -> Tensor:
        """[B, T, C] to [B, T, C]; for guidance's other branch give zeros."""
        embedded: Tensor = self.condition(condition, length_mask(lengths, condition.shape[1]))
        return embedded

    def embed_inputs(self, prompt: Tensor, embedded: Tensor) -> Tensor:
        """Share of the input projection that is the same in all steps.

        Args:
            prompt: [B, T, mel], zero after the prompt's frames.
            embedded: [B, T, C] of :meth:`embed_condition`.

        Returns:
            [B, T, D]
        """
        fixed = torch.cat([prompt, embedded], dim=-1)
        return functional.linear(fixed, self.input.weight[:, self.mel_channels :], self.input.bias)

    def modulate(self, time: Tensor, step_size: Tensor) -> Tensor:
        """All that depends on time.

        Args:
            time, step_size: float32 [N], one entry per pair wanted.

        Returns:
            float32 [N, depth * 6 * D + 2 * D]: the parts of each block, then final scale and shift.
        """
        vector = functional.silu(self.time(time) + self.step_size(step_size))
        layers = (*self.modulations, self.final_modulation)
        return torch.cat([layer(vector).float() for layer in layers], dim=-1)

    def forward(
        self,
        noisy: Tensor,
        inputs: Tensor,
        modulation: Tensor,
        lengths: Tensor | None = None,
        adapters: BatchAdapters | None = None,
    ) -> Tensor:
        """One estimate.

        Args:
            noisy: [B, T, mel].
            inputs: [B, T, D] of :meth:`embed_inputs`.
            modulation: [B, M] or [1, M], rows of :meth:`modulate`.
            lengths: [B] frames of each row, or None when all rows are full.
            adapters: changes of the weights, row by row.

        Returns:
            float32 [B, T, mel]; beyond a row's length it means nothing.
        """
        mask = length_mask(lengths, noisy.shape[1])
        values = inputs + functional.linear(noisy, self.input.weight[:, : self.mel_channels])
        values = values + self.position(values, mask)
        rotation = self.rotation(noisy.shape[1], adapters.frequencies if adapters else None)
        width = _BLOCK_PARTS * values.shape[-1]
        for index, block in enumerate(self.blocks):
            parts = modulation[:, index * width : (index + 1) * width]
            values = block(
                values, parts, lengths, rotation, adapters.blocks[index] if adapters else None
            )
        scale, shift = modulation[:, None, len(self.blocks) * width :].chunk(2, dim=-1)
        estimate: Tensor = self.output(modulated_norm(values, scale, shift))
        return estimate.float()

    def rotation(self, frames: int, frequencies: Tensor | None = None) -> Tensor:
        """Unit numbers complex64 [frames, head_dim / 2] at head 0's angles.

        With ``frequencies`` [B, head_dim / 2] of each row: [B, frames, head_dim / 2].
        """
        own = self.inverse_frequencies.float() if frequencies is None else frequencies[:, None]
        positions = torch.arange(frames, device=own.device)
        angles = positions[:, None] * own
        return torch.polar(torch.ones_like(angles), angles)
