"""HuBERT's base network, with the official checkpoint's names, so that weights load as they are.

Only what reads features: no masking, no heads, no dropout.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from gsv.models.blank import Conv1d, Linear


@dataclasses.dataclass(frozen=True)
class HubertSizes:
    """Fields of ``config.json``, by its names, and what they are where it has none."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    layer_norm_eps: float = 1e-5


class Hubert(nn.Module):
    """A wave at 16 kHz to hidden states, 50 a second."""

    def __init__(self, sizes: HubertSizes) -> None:
        super().__init__()
        width = sizes.hidden_size
        # Takes the place of masked frames in training; it is in every checkpoint.
        self.masked_spec_embed = nn.Parameter(torch.empty(width))
        self.feature_extractor = _Convolutions(sizes)
        last = sizes.conv_dim[-1]
        self.feature_projection = nn.ModuleDict(
            {
                "layer_norm": nn.LayerNorm(last, sizes.layer_norm_eps),
                "projection": Linear(last, width),
            }
        )
        self.encoder = _Encoder(sizes)

    def forward(self, wave: Tensor) -> Tensor:
        """The last hidden state: [B, samples] to [B, T50, hidden_size]."""
        features = self.feature_extractor(wave[:, None]).mT
        features = self.feature_projection["layer_norm"](features)
        hidden: Tensor = self.encoder(self.feature_projection["projection"](features))
        return hidden


class _Convolutions(nn.Module):
    """[B, 1, samples] to [B, conv_dim[-1], T50]."""

    def __init__(self, sizes: HubertSizes) -> None:
        super().__init__()
        widths = pairwise((1, *sizes.conv_dim))
        self.conv_layers = nn.ModuleList(
            nn.ModuleDict({"conv": Conv1d(given, made, kernel, stride, bias=False)})
            for (given, made), kernel, stride in zip(
                widths, sizes.conv_kernel, sizes.conv_stride, strict=True
            )
        )
        first = sizes.conv_dim[0]
        self.conv_layers[0]["layer_norm"] = nn.GroupNorm(first, first)  # type: ignore[operator]

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.conv_layers:
            for part in layer.values():  # type: ignore[operator]
                hidden = part(hidden)
            hidden = F.gelu(hidden)
        return hidden


class _Encoder(nn.Module):
    def __init__(self, sizes: HubertSizes) -> None:
        super().__init__()
        self.pos_conv_embed = _Positions(sizes)
        self.layer_norm = nn.LayerNorm(sizes.hidden_size, sizes.layer_norm_eps)
        self.layers = nn.ModuleList(_Layer(sizes) for _ in range(sizes.num_hidden_layers))

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.layer_norm(hidden + self.pos_conv_embed(hidden))
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


class _Positions(nn.Module):
    """What stands around each frame, as its position: [B, T, width] of the same shape."""

    def __init__(self, sizes: HubertSizes) -> None:
        super().__init__()
        width, kernel = sizes.hidden_size, sizes.num_conv_pos_embeddings
        groups = sizes.num_conv_pos_embedding_groups
        conv = Conv1d(width, width, kernel, padding=kernel // 2, groups=groups)
        self.conv = weight_norm(conv, dim=2)

    def forward(self, hidden: Tensor) -> Tensor:
        around: Tensor = self.conv(hidden.mT)[:, :, : hidden.shape[1]]  # an even kernel adds one
        return F.gelu(around).mT


class _Layer(nn.Module):
    def __init__(self, sizes: HubertSizes) -> None:
        super().__init__()
        width, inner = sizes.hidden_size, sizes.intermediate_size
        self.heads = sizes.num_attention_heads
        names = ("q_proj", "k_proj", "v_proj", "out_proj")
        self.attention = nn.ModuleDict({name: Linear(width, width) for name in names})
        self.layer_norm = nn.LayerNorm(width, sizes.layer_norm_eps)
        self.feed_forward = nn.ModuleDict(
            {"intermediate_dense": Linear(width, inner), "output_dense": Linear(inner, width)}
        )
        self.final_layer_norm = nn.LayerNorm(width, sizes.layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = (
            self.attention[name](hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )  # [B, heads, T, width / heads]
        read = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        hidden = self.layer_norm(hidden + self.attention["out_proj"](read))
        inner = F.gelu(self.feed_forward["intermediate_dense"](hidden))
        answer: Tensor = self.final_layer_norm(hidden + self.feed_forward["output_dense"](inner))
        return answer
