"""Content and phonemes to the encoder's frames: three transformers around one cross-attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gsv.config import SoVITSConfig
from gsv.models.masking import keep, key_mask

_WINDOW = 4  # frames on each side that have a relative-position term
_MASKED_SCORE = -1e4  # exp() of it is 0 in float32; a row without any key stays finite


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of [B, C, T]."""

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values.transpose(1, 2)).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head attention between [B, C, T] sequences, all projections 1×1 convolutions."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Conv1d(channels, channels, 1)
        self.key = nn.Conv1d(channels, channels, 1)
        self.value = nn.Conv1d(channels, channels, 1)
        self.output = nn.Conv1d(channels, channels, 1)

    def forward(self, values: Tensor, context: Tensor, context_mask: Tensor | None) -> Tensor:
        query = self._split(self.query(values)) / math.sqrt(values.shape[1] // self.heads)
        scores = query @ self._split(self.key(context)).mT + self.score_term(query)
        mask = key_mask(context_mask)
        if mask is not None:
            scores = scores.masked_fill(~mask, _MASKED_SCORE)
        weights = scores.softmax(-1)  # [B, heads, T, S]
        mixed = weights @ self._split(self.value(context)) + self.value_term(weights)
        projected: Tensor = self.output(mixed.transpose(2, 3).flatten(1, 2))
        return projected

    def _split(self, projected: Tensor) -> Tensor:
        rows, _, size = projected.shape
        return projected.view(rows, self.heads, -1, size).mT  # [B, heads, T, head_dim]

    def score_term(self, query: Tensor) -> Tensor | float:
        """What to add to the scores."""
        return 0.0

    def value_term(self, weights: Tensor) -> Tensor | float:
        """What to add to the mixed values."""
        return 0.0


class RelativeAttention(Attention):
    """Self-attention with learned terms for keys at most four frames away.

    P. Shaw et al., "Self-Attention with Relative Position Representations", 2018; beyond the
    window the term is zero, not that of the border.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads)
        shape = (1, 2 * _WINDOW + 1, channels // heads)  # one for all heads
        self.relative_keys = nn.Parameter(torch.empty(shape))
        self.relative_values = nn.Parameter(torch.empty(shape))

    def score_term(self, query: Tensor) -> Tensor:
        size = query.shape[2]
        scores = query.new_zeros(*query.shape[:2], size, size + 2 * _WINDOW)
        _band(scores).copy_(query @ self.relative_keys.mT)
        return scores[..., _WINDOW : _WINDOW + size]

    def value_term(self, weights: Tensor) -> Tensor:
        return _band(nn.functional.pad(weights, (_WINDOW, _WINDOW))) @ self.relative_values


def _band(matrix: Tensor) -> Tensor:
    """View [..., T, 9] of [..., T, T + 8]: row i holds columns i to i + 8, its own at 4."""
    columns = matrix.shape[-1]
    rows = columns - 2 * _WINDOW
    strides = (*matrix.stride()[:-2], columns + 1, 1)
    return matrix.as_strided((*matrix.shape[:-2], rows, 2 * _WINDOW + 1), strides)


class FeedForward(nn.Module):
    """Two convolutions over time with a ReLU between them."""

    def __init__(self, channels: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.expand = nn.Conv1d(channels, hidden, kernel, padding=kernel // 2)
        self.reduce = nn.Conv1d(hidden, channels, kernel, padding=kernel // 2)

    def forward(self, values: Tensor, mask: Tensor | None) -> Tensor:
        hidden = torch.relu(self.expand(keep(values, mask)))
        reduced: Tensor = self.reduce(keep(hidden, mask))
        return reduced


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each followed by its norm."""

    def __init__(self, config: SoVITSConfig) -> None:
        super().__init__()
        channels = config.hidden_channels
        self.attention = RelativeAttention(channels, config.heads)
        self.attention_norm = ChannelNorm(channels)
        self.feed_forward = FeedForward(channels, config.filter_channels, config.kernel_size)
        self.feed_forward_norm = ChannelNorm(channels)

    def forward(self, values: Tensor, mask: Tensor | None) -> Tensor:
        values = self.attention_norm(values + self.attention(values, values, mask))
        normed: Tensor = self.feed_forward_norm(values + self.feed_forward(values, mask))
        return normed


class Encoder(nn.Module):
    """A stack of :class:`EncoderLayer`."""

    def __init__(self, config: SoVITSConfig, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(layers))

    def forward(self, values: Tensor, mask: Tensor | None) -> Tensor:
        for layer in self.layers:
            values = layer(values, mask)
        return keep(values, mask)


class ContentTextFusion(nn.Module):
    """MRTE: each content frame looks up the phonemes, then the voice's timbre is added."""

    def __init__(self, config: SoVITSConfig) -> None:
        super().__init__()
        channels, hidden = config.hidden_channels, config.mrte_hidden
        self.content_in = nn.Conv1d(channels, hidden, 1)
        self.text_in = nn.Conv1d(channels, hidden, 1)
        self.attention = Attention(hidden, config.mrte_heads)
        self.output = nn.Conv1d(hidden, channels, 1)

    def forward(
        self, content: Tensor, text: Tensor, text_mask: Tensor | None, timbre: Tensor
    ) -> Tensor:
        content, text = self.content_in(content), self.text_in(text)
        attended: Tensor = self.attention(content, text, text_mask)
        fused: Tensor = self.output(attended + content + timbre)
        return fused


class TextEncoder(nn.Module):
    """Content frames at 50 Hz, phonemes and timbre to hidden frames at 50 Hz."""

    def __init__(self, config: SoVITSConfig) -> None:
        super().__init__()
        self.content_in = nn.Conv1d(config.ssl_dim, config.hidden_channels, 1)
        self.content_encoder = Encoder(config, config.layers // 2)
        self.phoneme_embedding = nn.Embedding(config.phonemes, config.hidden_channels)
        self.phoneme_encoder = Encoder(config, config.layers)
        self.fusion = ContentTextFusion(config)
        self.output_encoder = Encoder(config, config.layers // 2)

    def forward(
        self,
        content: Tensor,
        content_mask: Tensor | None,
        phonemes: Tensor,
        phoneme_mask: Tensor | None,
        timbre: Tensor,
    ) -> Tensor:
        """Encode a batch.

        Args:
            content: [B, ssl_dim, T], each token's codebook row twice.
            content_mask: bool [B, T] or None.
            phonemes: int64 [B, P].
            phoneme_mask: bool [B, P] or None.
            timbre: [B, gin_channels, 1].

        Returns:
            [B, hidden_channels, T]
        """
        values = self.content_encoder(keep(self.content_in(content), content_mask), content_mask)
        text = keep(self.phoneme_embedding(phonemes).mT, phoneme_mask)
        text = self.phoneme_encoder(text, phoneme_mask)
        values = self.fusion(values, text, phoneme_mask, timbre)
        encoded: Tensor = self.output_encoder(keep(values, content_mask), content_mask)
        return encoded
