"""Speech features to semantic tokens and back: nearest rows of a codebook."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Quantizer(nn.Module):
    """Projection of HuBERT features to 25 frames a second, and the codebook of tokens.

    Always float32: in lower precision the nearest row is another one.
    """

    codebook: Tensor

    def __init__(self, ssl_dim: int, codebook_size: int) -> None:
        super().__init__()
        self.projection = nn.Conv1d(ssl_dim, ssl_dim, kernel_size=2, stride=2)
        self.register_buffer("codebook", torch.empty(codebook_size, ssl_dim))

    def extract_tokens(self, ssl_features: Tensor) -> Tensor:
        """Tokens of a recording.

        Args:
            ssl_features: [B, ssl_dim, T50]; the last frame of an odd number is dropped.

        Returns:
            int64 [B, T50 // 2]
        """
        frames: Tensor = self.projection(ssl_features).transpose(1, 2)  # [B, T25, ssl_dim]
        # |x - e|² without |x|², which is the same for all rows; the first of equals wins.
        distance = self.codebook.square().sum(1) - 2 * (frames @ self.codebook.T)
        return distance.argmin(-1)

    def embed(self, tokens: Tensor) -> Tensor:
        """Codebook rows [B, ssl_dim, N] of ``tokens`` [B, N]."""
        return nn.functional.embedding(tokens, self.codebook).transpose(1, 2)
