"""The semantic language model of GPT-SoVITS v4: phonemes in, logits of the next semantic token out.

A row is one sentence and reads ``[text | audio]`` without gaps: the text block holds the prompt's
phonemes and the sentence's own, the audio block the prompt's tokens and then the generated ones.
Text attends to all text and to no audio; audio attends to all text and to the audio up to itself.
Counted in positions of the row, both say the same: position i sees ``max(text_length, i + 1)``
positions. Rows are padded on the right, and nobody sees the padding.

The key/value cache is passed in and written in place; prefill and decode run the same blocks.
Whatever the precision of the matrices, the residual stream, norms, softmax and positions stay in
float32 (upstream's half precision rounds them, acoustic_v4 section 13).

Letters in shapes: B rows, T new positions, S cached positions in view, L layers, E width, H heads,
D width of a head, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gsv.config import GPTConfig
from gsv.models.layers import Linear

MAX_POSITIONS = 4_000  # rows of the positional table, as upstream
FEED_FORWARD = 4  # width of the feed-forward layer in units of E; upstream ignores linear_units

Cache = Sequence[tuple[Tensor, Tensor]]  # per layer: keys and values, each [B, S, H, D]
Place = tuple[Any, Any]  # index of the T new positions in such a tensor: of rows, of positions


class SemanticGPT(nn.Module):
    """Post-norm transformer over text and semantic tokens (s1v3.ckpt)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_dim
        self.text_embedding = nn.Embedding(config.phonemes, width)
        self.bert_projection = Linear(config.bert_dim, width)
        self.audio_embedding = nn.Embedding(config.vocabulary, width)
        # The weight of the positional table, one for each block; both blocks count from 0.
        self.text_alpha = nn.Parameter(torch.ones(1))
        self.audio_alpha = nn.Parameter(torch.ones(1))
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = Linear(width, config.vocabulary, bias=False)
        self.register_buffer("position_table", sinusoids(MAX_POSITIONS, width), persistent=False)
        self.position_table: Tensor

    @property
    def precision(self) -> torch.dtype:
        """Type of the matrices, and of the cache that fits them."""
        return self.head.weight.dtype

    def set_precision(self, dtype: torch.dtype) -> SemanticGPT:
        """Store the matrices in ``dtype``; embeddings, norms and positions stay float32."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.to(dtype)
        return self

    def embed_prompt(self, phonemes: Tensor, bert: Tensor, tokens: Tensor) -> Tensor:
        """Input vectors of one row before its first decoding step.

        Args:
            phonemes: int [p], prompt's then the sentence's own.
            bert: float32 [p, 1024], a feature for each phoneme, zeros where there is none.
            tokens: int [t], semantic tokens of the prompt.

        Returns:
            float32 [p + t, E].
        """
        text = self.text_embedding(phonemes) + self.bert_projection(bert)
        text = text + self.text_alpha * self.position_table[: len(phonemes)]
        steps = torch.arange(len(tokens), device=tokens.device)
        return torch.cat([text, self._embed_audio(tokens, steps)])

    def embed_padded(self, ids: Tensor, bert: Tensor, text_length: Tensor) -> Tensor:
        """As :meth:`embed_prompt`, with lengths that a captured graph reads from the device.

        Args:
            ids: int [T], phonemes, then semantic tokens, then anything.
            bert: float32 [T, 1024]; beyond the phonemes it is not used.
            text_length: int64 [], the number of phonemes.

        Returns:
            float32 [T, E]; beyond the tokens it means nothing.
        """
        places = torch.arange(len(ids), device=ids.device)
        in_text = places < text_length
        text = self.text_embedding(ids.clamp(0, self.config.phonemes - 1))
        text = text + self.bert_projection(bert)
        text = text + self.text_alpha * self.position_table[: len(ids)]
        tokens = ids.clamp(0, self.config.vocabulary - 1)
        audio = self._embed_audio(tokens, (places - text_length).clamp(min=0))
        return torch.where(in_text[:, None], text, audio)

    def prefill(self, x: Tensor, text_lengths: Tensor, lengths: Tensor, cache: Cache) -> Tensor:
        """Read whole prompts; the cache then holds positions 0 to length - 1 of each row.

        Args:
            x: float32 [B, T, E], rows of ``embed_prompt``, padded on the right.
            text_lengths: int64 [B], length of each row's text block.
            lengths: int64 [B], length of each row without padding.
            cache: L pairs [B, T, H, D].

        Returns:
            float32 [B, V], logits of each row's next token.
        """
        positions = torch.arange(x.shape[1], device=x.device)
        visible = torch.maximum(text_lengths[:, None], positions + 1)  # [B, T]
        x = self._transform(x, (slice(None), slice(x.shape[1])), visible, cache)
        rows = torch.arange(x.shape[0], device=x.device)
        return self._logits(x[rows, lengths - 1])

    def decode(
        self, tokens: Tensor, positions: Tensor, text_lengths: Tensor, cache: Cache
    ) -> Tensor:
        """Read one more token of each row.

        Args:
            tokens: int64 [B], the token drawn last.
            positions: int64 [B], its place in the row: the number of positions cached so far.
            text_lengths: int64 [B].
            cache: L pairs [B, S, H, D] with S above every position. Places beyond a row's own
                length must be finite: their weight is 0, and 0 times NaN is NaN.

        Returns:
            float32 [B, V], logits of each row's next token.
        """
        x = self._embed_audio(tokens, positions - text_lengths)[:, None]  # [B, 1, E]
        rows = torch.arange(x.shape[0], device=x.device)
        x = self._transform(x, (rows[:, None], positions[:, None]), positions[:, None] + 1, cache)
        return self._logits(x[:, 0])

    def attention_weights(self, x: Tensor, text_length: int, first: int) -> Iterator[Tensor]:
        """Where the positions from ``first`` on look in the text, layer by layer.

        Args:
            x: float32 [1, T, E], one row of ``embed_prompt``.
            text_length: of its text block.
            first: a position of its audio block.

        Yields:
            For each layer, [H, T - first, text_length] shares of attention; a row sums to at most
            1, for the audio before gets the rest.
        """
        positions = torch.arange(x.shape[1], device=x.device)
        visible = positions.clamp(min=text_length - 1)
        mask = torch.zeros((), dtype=self.precision, device=x.device).masked_fill(
            positions > visible[:, None], -torch.inf
        )  # [T, T]
        for layer in self.layers:
            assert isinstance(layer, Block)
            x, weights = layer.explained(x, mask)
            yield weights[0, :, first:, :text_length]

    def _embed_audio(self, tokens: Tensor, steps: Tensor) -> Tensor:
        embedded: Tensor = self.audio_embedding(tokens)
        return embedded + self.audio_alpha * self.position_table[steps]

    def _transform(self, x: Tensor, place: Place, visible: Tensor, cache: Cache) -> Tensor:
        window = torch.arange(cache[0][0].shape[1], device=x.device)
        # Added to the scores, in their type: attention would make the same of a mask of truths, but
        # again in each layer.
        mask = torch.zeros((), dtype=self.precision, device=x.device).masked_fill(
            (window >= visible[..., None])[:, None], -torch.inf
        )  # [B, 1, T, S]
        for layer, (keys, values) in zip(self.layers, cache, strict=True):
            x = layer(x, place, mask, keys, values)
        return x

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x)
        return logits.float()


class Block(nn.Module):
    """Attention and feed-forward, each followed by its norm (post-norm)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(width, eps=1e-5)
        self.expand = Linear(width, FEED_FORWARD * width)
        self.contract = Linear(FEED_FORWARD * width, width)
        self.feed_forward_norm = nn.LayerNorm(width, eps=1e-5)

    def forward(
        self,
        x: Tensor,  # [B, T, E] float32
        place: Place,
        mask: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        x = self.attention_norm(x + self.attention(x, place, mask, keys, values))
        return self._feed_forward(x)

    def explained(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The same without a cache, and the attention's weights [B, H, T, T]."""
        mixed, weights = self.attention.explained(x, mask)
        return self._feed_forward(self.attention_norm(x + mixed)), weights

    def _feed_forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.expand(x), inplace=True)
        normed: Tensor = self.feed_forward_norm(x + self.contract(hidden))
        return normed


class Attention(nn.Module):
    """Self-attention over the cached positions of each row."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = Linear(config.hidden_dim, 3 * config.hidden_dim)
        self.output = Linear(config.hidden_dim, config.hidden_dim)

    def forward(
        self,
        x: Tensor,  # [B, T, E] float32
        place: Place,
        mask: Tensor,  # [B, 1, T, S]
        keys: Tensor,  # [B, S, H, D]
        values: Tensor,  # [B, S, H, D]
    ) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)  # [B, T, H, D] each
        keys[place] = k
        values[place] = v
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask
        )
        projected: Tensor = self.output(y.transpose(1, 2).flatten(2))
        return projected

    def explained(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The same without a cache, and the weights.

        Args:
            x: float32 [B, T, E].
            mask: [T, T], added to the scores.

        Returns:
            [B, T, E] and [B, H, T, T].
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        weights = (q @ k.mT / math.sqrt(q.shape[-1]) + mask).softmax(dim=-1)  # [B, H, T, T]
        projected: Tensor = self.output((weights @ v).transpose(1, 2).flatten(2))
        return projected, weights


def sinusoids(positions: int, width: int) -> Tensor:
    """Positional table, float32 [positions, width]: sine in even columns, cosine in odd ones."""
    frequencies = torch.exp(torch.arange(0, width, 2).float() * -(math.log(10_000.0) / width))
    angles = torch.arange(positions).float()[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
