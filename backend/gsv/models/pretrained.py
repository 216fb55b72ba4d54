"""The two encoders made by others, HuBERT and BERT, cut to what is needed of them.

The networks are written here, not taken from ``transformers``: to import that costs each process 2
CPU seconds at every start and 0.2 GB. Tests compare them with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from gsv.device import upload
from gsv.models.bert import Bert
from gsv.models.hubert import Hubert

BERT_SKIPPED_LAYERS = 2  # the third hidden state from the end is read; later layers needn't run


class SpeechFeatures(nn.Module):
    """HuBERT's last hidden state."""

    def __init__(self, hubert: Hubert) -> None:
        super().__init__()
        self.hubert = hubert

    def forward(self, wave: Tensor) -> Tensor:
        """[B, samples] at 16 kHz, as it is (upstream skips the normalisation), to [B, 768, T50].

        All rows must fill the tensor: the first norm runs over the whole time axis, so padding
        would change every frame.
        """
        parameter = next(self.hubert.parameters())
        hidden: Tensor = self.hubert(wave.to(parameter.dtype))
        return hidden.mT.float()


class CharacterFeatures(nn.Module):
    """BERT's third hidden state from the end, without the first and the last token.

    Args:
        bert: without its last two layers.
    """

    def __init__(self, bert: Bert) -> None:
        super().__init__()
        self.bert = bert

    @property
    def width(self) -> int:
        """Values of a row."""
        return self.bert.width

    def forward(self, tokens: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """Features of a batch of token rows.

        Args:
            tokens: int64 [B, L]; a row is [CLS], its characters, [SEP], then padding.
            lengths: tokens of each row with its [CLS] and [SEP].

        Returns:
            float32 [characters, 1024] of each row, on the CPU.
        """
        mask = None
        if min(lengths) < tokens.shape[1]:
            within = np.arange(tokens.shape[1]) < np.array(lengths)[:, None]
            mask = upload(within, tokens.device)
        hidden: Tensor = self.bert(tokens, mask)
        read = hidden.float().cpu()  # one copy for all rows
        return [row[1 : length - 1] for row, length in zip(read, lengths, strict=True)]
