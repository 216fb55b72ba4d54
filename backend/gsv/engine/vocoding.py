"""Mels of any length to waves in bounded memory: windows that see all that their samples depend on.

A sample depends on the mel frames within the vocoder's receptive field. A window whose ends lie at
least that far from what is kept of it, or at the mel's own ends, gives the very samples that the
whole mel gives; so seams need no fading, and windows of different mels can share a batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from gsv.models.vocoder import Vocoder
from gsv.models.windows import Window, windows


@torch.inference_mode()
def vocode(
    vocoder: Vocoder,
    mels: Sequence[Tensor],
    limit: int,
    multiple: int = 1,
    batch_frames: int = 0,
) -> list[Tensor]:
    """Waves of several mels, each the same as of that mel alone.

    Args:
        vocoder: in evaluation mode, on the mels' device.
        mels: log-mel [mel, T] each.
        limit: frames of the largest window; bounds the memory.
        multiple: windows are a multiple of so many frames. Above 1, mels of different lengths
            share batches, at the price of some frames computed twice.
        batch_frames: frames of all windows of a batch; 0 is one window a batch, best on a CPU.

    Returns:
        float32 [480 * T] each.
    """
    sizes: dict[int, list[tuple[int, Window]]] = defaultdict(list)
    for row, mel in enumerate(mels):
        for window in windows(mel.shape[-1], vocoder.context_frames, limit, multiple):
            sizes[window.size].append((row, window))
    scale = vocoder.samples_per_frame
    waves = [mel.new_empty(mel.shape[-1] * scale, dtype=torch.float32) for mel in mels]
    for size, pieces in sizes.items():
        step = max(1, batch_frames // size)
        for begin in range(0, len(pieces), step):
            batch = pieces[begin : begin + step]
            stacked = torch.stack([mels[row][:, w.start : w.start + size] for row, w in batch])
            for (row, w), made in zip(batch, vocoder(stacked)[:, 0], strict=True):
                kept = made[(w.first - w.start) * scale : (w.last - w.start) * scale]
                waves[row][w.first * scale : w.last * scale] = kept
    return waves


class MelStream:
    """Windows of a mel that arrives in pieces; the waves of their kept parts join exactly.

    Args:
        context: the vocoder's ``context_frames``.
        multiple: windows have a multiple of so many frames where there is enough past to add, which
            keeps the number of different shapes small.
    """

    def __init__(self, context: int, multiple: int = 1) -> None:
        self._context = context
        self._multiple = multiple
        self._held: Tensor | None = None  # frames still needed
        self._given = 0  # leading ones of them whose samples are out already

    def push(self, mel: Tensor, *, last: bool) -> tuple[Tensor, int, int] | None:
        """Take more frames [mel, n]; n may be 0 with ``last``.

        Returns:
            The next window [mel, size] and the frames of it, ``first`` to ``end``, whose samples
            are to be kept; None while all frames at hand lack context behind them.
        """
        held = mel if self._held is None else torch.cat([self._held, mel], dim=-1)
        first, end = self._given, held.shape[-1] - (0 if last else self._context)
        if end <= first:
            self._held = held
            return None
        start = max(0, end - self._context - (self._multiple - 1))
        self._held, self._given = held[:, start:], end - start
        needless = max(0, first - self._context)  # leading frames that these samples don't hear
        filling = -(held.shape[-1] - needless) % self._multiple
        cut = max(0, needless - filling)
        return held[:, cut:], first - cut, end - cut
