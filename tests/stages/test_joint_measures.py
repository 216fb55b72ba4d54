"""The measures of a stream's joints see what an ear would hear."""

from __future__ import annotations

import numpy as np
from joints import click, level_jump

RATE = 48_000
JOINT = RATE  # in the middle


def voice_like() -> np.ndarray:
    """Two seconds of harmonics under a slowly moving envelope."""
    time = np.arange(2 * RATE) / RATE
    tones = sum(np.sin(2 * np.pi * 120 * n * time + n) / n for n in range(1, 20))
    return (0.1 * (1.2 + np.sin(2 * np.pi * 3 * time)) * tones).astype(np.float32)


def test_a_smooth_joint_does_not_stand_out() -> None:
    assert click(voice_like(), [JOINT]) < 1.5
    assert level_jump(voice_like(), [JOINT]) < 1.0


def test_a_click_stands_out() -> None:
    samples = voice_like()
    samples[JOINT:] += 0.05
    assert click(samples, [JOINT]) > 3


def test_a_jump_in_level_stands_out() -> None:
    samples = voice_like()
    samples[JOINT:] *= 0.15
    assert level_jump(samples, [JOINT]) > 1.5
