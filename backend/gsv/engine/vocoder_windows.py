"""Mels of any length to waves in bounded memory: windows that see all that their samples depend on.

A sample depends on the mel frames within the vocoder's receptive field. A window whose ends lie at
least that far from what is kept of it, or at the mel's own ends, gives the very samples that the
whole mel gives; so seams need no fading, and windows of different mels can share a batch.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from gsv.engine.cuda_graphs import CapturedCalls
from gsv.models.vocoder import Vocoder
from gsv.models.windows import Window, windows

logger = logging.getLogger(__name__)


class GraphedVocoder:
    """Calls a vocoder, through CUDA graphs where a batch's shape has one.

    A window is some two hundred kernels, which a GPU runs faster than they can be started.

    Args:
        vocoder: in evaluation mode, on its device, in its final precision.
    """

    def __init__(self, vocoder: Vocoder) -> None:
        self.vocoder = vocoder
        self.device = vocoder.output.weight.device
        self._calls = CapturedCalls(self.device)
        self._captured: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        """Graphs captured."""
        return len(self._captured)

    def capture_all(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Capture these numbers of windows and frames, the largest first."""
        begin = time.monotonic()
        for rows, frames in sorted(shapes, key=lambda shape: shape[0] * shape[1], reverse=True):
            self.capture(rows, frames)
        seconds = time.monotonic() - begin
        logger.info("vocoder: %d CUDA graphs in %.1f s", len(self._captured), seconds)

    @torch.inference_mode()
    def capture(self, rows: int, frames: int) -> None:
        """Capture one shape; without memory for it, its batches run without a graph."""
        if self.device.type != "cuda":
            return
        channels = self.vocoder.input.in_channels
        mel = torch.zeros(rows, channels, frames, device=self.device)
        made: list[Tensor] = []
        self._calls.capture((rows, frames), partial(self._run_into, made, mel))
        if (rows, frames) in self._calls:
            self._captured[rows, frames] = mel, made[-1]

    def __call__(self, mel: Tensor) -> Tensor:
        """As :class:`Vocoder`; valid until the next call."""
        key = (mel.shape[0], mel.shape[2])
        if key not in self._captured:
            wave: Tensor = self.vocoder(mel)
            return wave
        given, made = self._captured[key]
        given.copy_(mel)
        self._calls(key, partial(self._run_into, [], given))
        return made

    def _run_into(self, made: list[Tensor], mel: Tensor) -> None:
        made.append(self.vocoder(mel))


@torch.inference_mode()
def vocode(
    vocoder: Vocoder,
    mels: Sequence[Tensor],
    limit: int,
    multiple: int = 1,
    batch_frames: int = 0,
    compute: Callable[[Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """Waves of several mels, each the same as of that mel alone.

    Args:
        vocoder: in evaluation mode, on the mels' device.
        mels: log-mel [mel, T] each.
        limit: frames of the largest window; bounds the memory.
        multiple: windows are a multiple of so many frames. Above 1, mels of different lengths
            share batches, at the price of some frames computed twice.
        batch_frames: frames of all windows of a batch; 0 is one window a batch, best on a CPU.
            Batches have a power of two of windows, so that there are few different shapes.
        compute: as the vocoder, faster.

    Returns:
        float32 [480 * T] each.
    """
    sizes: dict[int, list[tuple[int, Window]]] = defaultdict(list)
    for row, mel in enumerate(mels):
        for window in windows(mel.shape[-1], vocoder.context_frames, limit, multiple):
            sizes[window.size].append((row, window))
    scale = vocoder.samples_per_frame
    waves = [mel.new_empty(mel.shape[-1] * scale, dtype=torch.float32) for mel in mels]
    compute = compute or vocoder
    for size, pieces in sizes.items():
        begin = 0
        while begin < len(pieces):
            count = power_of_two(min(max(1, batch_frames // size), len(pieces) - begin))
            batch = pieces[begin : begin + count]
            begin += count
            stacked = torch.stack([mels[row][:, w.start : w.start + size] for row, w in batch])
            for (row, w), made in zip(batch, compute(stacked)[:, 0], strict=True):
                kept = made[(w.first - w.start) * scale : (w.last - w.start) * scale]
                waves[row][w.first * scale : w.last * scale] = kept
    return waves


def batch_shapes(limit: int, multiple: int, batch_frames: int) -> list[tuple[int, int]]:
    """Numbers of windows and frames of :func:`vocode`'s batches, but for very short mels."""
    return [
        (1 << power, size)
        for size in range(multiple, limit + 1, multiple)
        for power in range(power_of_two(max(1, batch_frames // size)).bit_length())
    ]


def power_of_two(count: int) -> int:
    """The largest that is not above ``count``."""
    return 1 << (count.bit_length() - 1)
