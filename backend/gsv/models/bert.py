"""BERT's encoder, with the names of the official checkpoint, so that its weights load as they are.

Only what reads features: no pooler, no heads, no dropout.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gsv.models.blank import Linear, embedding


@dataclasses.dataclass(frozen=True)
class BertSizes:
    """Fields of ``config.json``, by its names, and what they are where it has none."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12


class Bert(nn.Module):
    """Tokens to hidden states; all tokens are of the first of BERT's two segments."""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.width = sizes.hidden_size
        self.embeddings = _Embeddings(sizes)
        self.encoder = nn.ModuleDict(
            {"layer": nn.ModuleList(_Layer(sizes) for _ in range(sizes.num_hidden_layers))}
        )

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """The last hidden state.

        Args:
            tokens: int64 [B, L].
            mask: bool [B, L], false where a row is padded; None if none is.

        Returns:
            [B, L, hidden_size].
        """
        hidden: Tensor = self.embeddings(tokens)
        seen = None if mask is None else mask[:, None, None, :]
        for layer in self.encoder["layer"]:  # type: ignore[attr-defined]
            hidden = layer(hidden, seen)
        return hidden


class _Embeddings(nn.Module):
    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        width = sizes.hidden_size
        self.word_embeddings = embedding(sizes.vocab_size, width)
        self.position_embeddings = embedding(sizes.max_position_embeddings, width)
        self.token_type_embeddings = embedding(sizes.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, sizes.layer_norm_eps)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        words = self.word_embeddings(tokens) + self.token_type_embeddings.weight[0]
        normed: Tensor = self.LayerNorm(words + self.position_embeddings(positions))
        return normed


class _Layer(nn.Module):
    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        width, inner = sizes.hidden_size, sizes.intermediate_size
        self.heads = sizes.num_attention_heads
        names = ("query", "key", "value")
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict({name: Linear(width, width) for name in names}),
                "output": _Residual(width, width, sizes.layer_norm_eps),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": Linear(width, inner)})
        self.output = _Residual(inner, width, sizes.layer_norm_eps)

    def forward(self, hidden: Tensor, seen: Tensor | None) -> Tensor:
        parts = self.attention["self"]
        query, key, value = (
            parts[name](hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # type: ignore[index]
            for name in ("query", "key", "value")
        )  # [B, heads, L, width / heads]
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        hidden = self.attention["output"](read.transpose(1, 2).flatten(2), hidden)
        answer: Tensor = self.output(F.gelu(self.intermediate["dense"](hidden)), hidden)
        return answer


class _Residual(nn.Module):
    """A linear layer whose result is added to what came before, and normed."""

    def __init__(self, given: int, width: int, eps: float) -> None:
        super().__init__()
        self.dense = Linear(given, width)
        self.LayerNorm = nn.LayerNorm(width, eps)

    def forward(self, given: Tensor, before: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(self.dense(given) + before)
        return normed
