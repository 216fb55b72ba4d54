"""How much a stream's joints stand out of its own signal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FRAME = 480  # 10 ms
REACH = 96  # samples on either side of a joint: 2 ms


def click(samples: NDArray[np.float32], joints: Sequence[int]) -> float:
    """The largest second difference near a joint over the 99.9th percentile of all.

    A click is a jump or a kink in the wave; speech has its own, so that they are the measure.
    """
    bends = np.abs(np.diff(samples, 2))
    near = np.concatenate([bends[max(0, j - REACH) : j + REACH] for j in joints])
    return float(near.max() / np.percentile(bends, 99.9))


def level_jump(samples: NDArray[np.float32], joints: Sequence[int]) -> float:
    """The largest change of level from the 20 ms before a joint to the 20 ms after it, in dB,

    over the 99th percentile of the same change at every 10 ms of the signal.
    """

    def change(at: int) -> float:
        before, after = samples[at - 2 * FRAME : at], samples[at : at + 2 * FRAME]
        return abs(_decibels(after) - _decibels(before))

    inside = range(2 * FRAME, len(samples) - 2 * FRAME, FRAME)
    return max(change(j) for j in joints) / float(np.percentile([change(i) for i in inside], 99))


def _decibels(samples: NDArray[np.float32]) -> float:
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-6))
