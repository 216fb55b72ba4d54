"""The heavy networks as plain float32 PyTorch, computed as upstream does.

What speed and precision are measured against: nothing is laid out, cached over steps or fused. The
weights are those of the networks themselves, before ``set_precision``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gsv.models.dit import DiT
from gsv.models.vocoder import Vocoder

_EPS = 1e-6


def dit_step(
    dit: DiT, noisy: Tensor, prompt: Tensor, embedded: Tensor, time: Tensor, step_size: Tensor
) -> Tensor:
    """One estimate for rows that fill the tensor.

    Args:
        dit: in float32.
        noisy, prompt: [B, T, mel].
        embedded: [B, T, C] of ``embed_condition``, which upstream keeps over the steps, too.
        time, step_size: [B].

    Returns:
        [B, T, mel]
    """
    vector = F.silu(dit.time(time) + dit.step_size(step_size))
    values = _linear(dit.input, torch.cat([noisy, prompt, embedded], dim=-1))
    values = values + _position(dit, values)
    rotation = dit.rotation(values.shape[1])
    for block, modulation in zip(dit.blocks, dit.modulations, strict=True):
        parts = _linear(modulation, vector)[:, None].chunk(6, dim=-1)
        shift, scale, gate, ff_shift, ff_scale, ff_gate = parts
        normed = F.layer_norm(values, values.shape[-1:], eps=_EPS) * (1 + scale) + shift
        values = values + gate * _attention(block.get_submodule("attention"), normed, rotation)
        normed = F.layer_norm(values, values.shape[-1:], eps=_EPS) * (1 + ff_scale) + ff_shift
        hidden = F.gelu(_linear(block.get_submodule("expand"), normed), approximate="tanh")
        values = values + ff_gate * _linear(block.get_submodule("reduce"), hidden)
    scale, shift = _linear(dit.final_modulation, vector)[:, None].chunk(2, dim=-1)
    normed = F.layer_norm(values, values.shape[-1:], eps=_EPS) * (1 + scale) + shift
    return _linear(dit.output, normed)


def vocode(vocoder: Vocoder, mel: Tensor) -> Tensor:
    """[B, mel, T] to [B, 1, 480 * T]."""
    values = _convolve(vocoder.input, mel)
    for stage in vocoder.stages:
        upsample = stage.get_submodule("upsample")
        stride = int(getattr(upsample, "stride", 0))
        weight, bias = upsample.get_parameter("weight"), upsample.get_parameter("bias")
        values = F.leaky_relu(values, 0.1)
        values = F.conv_transpose1d(values, weight, bias, stride, padding=stride // 2)
        blocks = list(stage.get_submodule("blocks").children())
        sums = [_residual(block, values) for block in blocks]
        values = torch.stack(sums).sum(0) / len(sums)
    return torch.tanh(_convolve(vocoder.output, F.leaky_relu(values)))


def _residual(block: nn.Module, values: Tensor) -> Tensor:
    dilated, plain = block.get_submodule("dilated"), block.get_submodule("plain")
    for first, second in zip(dilated.children(), plain.children(), strict=True):
        hidden = _convolve(first, F.leaky_relu(values, 0.1))
        values = values + _convolve(second, F.leaky_relu(hidden, 0.1))
    return values


def _attention(attention: nn.Module, values: Tensor, rotation: Tensor) -> Tensor:
    heads = int(getattr(attention, "heads", 0))
    query, key, value = (
        _linear(attention.get_submodule(name), values) for name in ("query", "key", "value")
    )
    query, key = _rotated(query, rotation), _rotated(key, rotation)
    rows, frames, width = values.shape
    query, key, value = (
        part.view(rows, frames, heads, -1).transpose(1, 2) for part in (query, key, value)
    )
    mixed = F.scaled_dot_product_attention(query, key, value)
    mixed = mixed.transpose(1, 2).reshape(rows, frames, width)
    return _linear(attention.get_submodule("output"), mixed)


def _rotated(values: Tensor, rotation: Tensor) -> Tensor:
    width = 2 * rotation.shape[-1]
    turned, rest = values[..., :width], values[..., width:]
    even, odd = turned[..., 0::2], turned[..., 1::2]
    cosine, sine = rotation.real, rotation.imag
    pairs = torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1)
    return torch.cat([pairs.flatten(-2), rest], dim=-1)


def _position(dit: DiT, values: Tensor) -> Tensor:
    hidden = F.mish(_convolve(dit.position.first, values.mT))
    return F.mish(_convolve(dit.position.second, hidden)).mT


def _linear(layer: nn.Module, values: Tensor) -> Tensor:
    return F.linear(values, layer.get_parameter("weight"), layer.get_parameter("bias"))


def _convolve(layer: nn.Module, values: Tensor) -> Tensor:
    assert isinstance(layer, nn.Conv1d)
    return F.conv1d(
        values,
        layer.weight,
        layer.bias,
        padding=int(layer.padding[0]),
        dilation=layer.dilation,
        groups=layer.groups,
    )
