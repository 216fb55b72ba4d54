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
from gsv.models.attention import attend, attention_mask
from gsv.models.layers import Linear, RowConv1d, gelu_tanh
from gsv.models.masking import keep_rows, length_mask

_NORM_EPS = 1e-6
_GRN_EPS = 1e-6
_FREQUENCY_BASE = 10_000.0
_TIME_CHANNELS = 256
_TIME_SCALE = 1000.0
_LAST_POSITION = 4095  # the condition's position embedding stays the same after it
_BLOCK_PARTS = 6  # shift, scale, gate of the attention; shift, scale, gate of the feed-forward

# As :func:`add_and_norm`.
AddAndNorm = Callable[
    [Tensor, Tensor | None, Tensor | None, Tensor, Tensor, torch.dtype], tuple[Tensor, Tensor]
]


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
    """Two wide grouped convolutions that tell a frame where it stands.

    ``kernel``, where somebody has set it, does the same faster, from the rows' lengths.
    """

    def __init__(self, width: int, taps: int = 31, groups: int = 16) -> None:
        super().__init__()
        self.kernel: Callable[[Tensor, Tensor | None], Tensor] | None = None
        self.first = RowConv1d(width, width, taps, padding=taps // 2, groups=groups)
        self.second = RowConv1d(width, width, taps, padding=taps // 2, groups=groups)

    def forward(self, values: Tensor, lengths: Tensor | None, mask: Tensor | None) -> Tensor:
        """``values`` [B, T, D] with their places added; ``mask`` [B, T] is that of ``lengths``."""
        if self.kernel is not None:
            return self.kernel(values, lengths)
        hidden = functional.mish(self.first(keep_rows(values, mask)))
        return values + functional.mish(self.second(keep_rows(hidden, mask)))


class Attention(nn.Module):
    """Self-attention whose first head alone knows positions.

    ``kernel`` and ``rotate``, where somebody has set them, do the same as :func:`attend` and
    :func:`rotate_first_heads` faster.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.kernel: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor] | None = None
        self.rotate: Callable[[Tensor, Tensor, Tensor], None] = rotate_first_heads
        self._merged: tuple[Tensor, Tensor] | None = None
        self.query = Linear(width, width)
        self.key = Linear(width, width)
        self.value = Linear(width, width)
        self.output = Linear(width, width)

    def merge(self) -> None:
        """Make query, key and value by one product, which serves a GPU; do it last.

        The three layers' weights become views of the common ones.
        """
        layers = (self.query, self.key, self.value)
        weight = torch.cat([layer.weight.detach() for layer in layers])
        bias = torch.cat([layer.bias.detach() for layer in layers])
        for layer, own, own_bias in zip(layers, weight.chunk(3), bias.chunk(3), strict=True):
            layer.weight = nn.Parameter(own, requires_grad=False)
            layer.bias = nn.Parameter(own_bias, requires_grad=False)
        self._merged = weight, bias

    def forward(
        self,
        values: Tensor,
        lengths: Tensor | None,
        mask: Tensor | None,
        rotation: Tensor,
        adapters: BlockAdapters | None = None,
    ) -> Tensor:
        """``values`` [B, T, D]; ``mask`` is :func:`attention_mask` of ``lengths``."""
        values = values.to(self.query.weight.dtype)
        if self._merged is None:
            projected = [layer(values) for layer in (self.query, self.key, self.value)]
        else:
            projected = list(functional.linear(values, *self._merged).chunk(3, dim=-1))
        if adapters is not None:
            adapters.add_to_inputs(values, projected)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1))  # [B, T, heads, head_dim]
            for part in projected
        )
        self.rotate(query, key, rotation)
        if self.kernel is not None:
            mixed = self.kernel(query, key, value, lengths)
        else:
            mixed = attend(query, key, value, lengths, mask)
        made: Tensor = self.output(mixed)
        return made if adapters is None else adapters.add_to_output(mixed, made)


def rotate_first_heads(query: Tensor, key: Tensor, rotation: Tensor) -> None:
    """Turn, in place, the pairs (2i, 2i + 1) of head 0 of [B, T, heads, head_dim].

    Upstream rotates before it splits the heads, and only as many channels as one head has; the
    weights were trained so.

    Args:
        query, key: changed.
        rotation: unit numbers complex64 [T, head_dim / 2], or [B, T, head_dim / 2].
    """
    for values in (query, key):
        head = values[:, :, 0]
        pairs = torch.view_as_complex(head.float().reshape(*head.shape[:-1], -1, 2))
        head.copy_(torch.view_as_real(pairs * rotation).flatten(-2))


class Block(nn.Module):
    """Attention and feed-forward, both modulated and gated by time.

    ``add_and_norm`` is the function of that name, or one that does the same faster.
    """

    def __init__(self, config: SoVITSConfig) -> None:
        super().__init__()
        width = config.dit_dim
        self.add_and_norm: AddAndNorm = add_and_norm
        self.attention = Attention(width, config.dit_heads)
        self.expand = Linear(width, config.dit_ff_mult * width, activation=gelu_tanh)
        self.reduce = Linear(config.dit_ff_mult * width, width)

    def forward(
        self,
        values: Tensor,
        hidden: Tensor | None,
        gate: Tensor | None,
        parts: Tensor,
        lengths: Tensor | None,
        mask: Tensor | None,
        rotation: Tensor,
        adapters: BlockAdapters | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One block, but for the last sum, which the next one takes together with its norm.

        Args:
            values: float32 [B, T, D]; ``hidden`` [B, T, D] times ``gate`` [B, D] is to be added.
            parts: [B, 6 * D].
            lengths, mask, rotation, adapters: of :class:`Attention`.

        Returns:
            The same three for the next block.
        """
        shift, scale, own_gate, ff_shift, ff_scale, ff_gate = parts.chunk(_BLOCK_PARTS, -1)
        dtype = self.reduce.weight.dtype
        values, normed = self.add_and_norm(values, hidden, gate, scale, shift, dtype)
        hidden = self.attention(normed, lengths, mask, rotation, adapters)
        values, normed = self.add_and_norm(values, hidden, own_gate, ff_scale, ff_shift, dtype)
        return values, self.reduce(self.expand(normed)), ff_gate


def add_and_norm(
    values: Tensor,
    hidden: Tensor | None,
    gate: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Add what a layer made, and norm the sum for the next layer.

    Args:
        values: float32 [B, T, D]; may be changed.
        hidden: [B, T, D] to be added, times ``gate``; None adds nothing.
        gate, scale, shift: float32 [B, D] or [1, D].
        dtype: that the next layer computes in.

    Returns:
        The sum in float32, and its layer norm without weights of its own, times ``1 + scale`` and
        with ``shift``, as ``dtype`` (on a CPU float32: there the layer casts).
    """
    if hidden is not None and gate is not None:
        values = torch.addcmul(values, gate[:, None], hidden)
    normed = _modulated_norm(values, scale[:, None], shift[:, None])
    return values, normed if values.device.type == "cpu" else normed.to(dtype)


def _modulated_norm(values: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    shape = values.shape[-1:]
    if len(values) == len(scale) and (values.device.type == "cpu" or len(values) == 1):
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
        self.width = width
        self.modulation_width = (config.dit_depth * _BLOCK_PARTS + 2) * width
        self.add_and_norm: AddAndNorm = add_and_norm
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
        """[B, T, C] to [B, T, C]."""
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
            float32 [N, M]: the 6 * D parts of each block, then final scale and shift.
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
        frames, dtype = noisy.shape[1], self.output.weight.dtype
        # Once for all blocks; the kernels read the lengths themselves.
        mask = None if self.position.kernel else length_mask(lengths, frames)
        rotation = self.rotation(frames, adapters.frequencies if adapters else None)
        values = inputs + functional.linear(noisy, self.input.weight[:, : self.mel_channels])
        values = self.position(values, lengths, mask)
        keys = attention_mask(mask, dtype)
        width = _BLOCK_PARTS * values.shape[-1]
        hidden: Tensor | None = None
        gate: Tensor | None = None
        for index, block in enumerate(self.blocks):
            parts = modulation[:, index * width : (index + 1) * width]
            own = adapters.blocks[index] if adapters else None
            values, hidden, gate = block(values, hidden, gate, parts, lengths, keys, rotation, own)
        scale, shift = modulation[:, len(self.blocks) * width :].chunk(2, dim=-1)
        _, normed = self.add_and_norm(values, hidden, gate, scale, shift, dtype)
        estimate: Tensor = self.output(normed)
        return estimate.float()

    def rotation(self, frames: int, frequencies: Tensor | None = None) -> Tensor:
        """Unit numbers complex64 [frames, head_dim / 2] at head 0's angles.

        With ``frequencies`` [B, head_dim / 2] of each row: [B, frames, head_dim / 2].
        """
        own = self.inverse_frequencies.float() if frequencies is None else frequencies[:, None]
        positions = torch.arange(frames, device=own.device)
        angles = positions[:, None] * own
        return torch.polar(torch.ones_like(angles), angles)
