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
