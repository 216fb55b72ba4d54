"""Pitch of a wave: normalised autocorrelation, the most regular path through its peaks."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

FRAME_RATE = 100  # frames a second, as a mel's
LOWEST, HIGHEST = 65.0, 420.0  # Hz
_RATE = 16_000
_WINDOW = 768  # samples: three periods of the lowest pitch
_FFT = 2_048
_CANDIDATES = 4  # peaks a frame
_VOICED = 0.55  # height of a peak above which a frame has a pitch
_SILENT = 0.02  # of the loudest frame's amplitude, below which a frame has none
_OCTAVE = 0.04  # price of a peak an octave lower: the true period is the shortest good one
_JUMP = 0.6  # price of a step of an octave from one frame to the next
_CHANGE = 0.15  # price of a change between voiced and unvoiced
_BLOCK = 4_096  # frames analysed at once

Pitch = NDArray[np.float32]


def track(wave: NDArray[np.float32], rate: int) -> Pitch:
    """Hz of each hundredth of a second, float32; 0 where there is no pitch.

    Frame ``i`` is centred at ``(i + 0.5) / FRAME_RATE`` seconds, as a mel's is.
    """
    samples = soxr.resample(wave, rate, _RATE).astype(np.float32)
    hop = _RATE // FRAME_RATE
    count = len(samples) // hop
    if not count:
        return np.zeros(0, np.float32)
    padded = np.pad(samples, (_WINDOW // 2 - hop // 2, _WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::hop][:count]
    loudness = np.abs(frames).max(1)
    heights, lags = [], []
    for first in range(0, count, _BLOCK):
        found = _peaks(frames[first : first + _BLOCK])
        heights.append(found[0])
        lags.append(found[1])
    return _path(np.concatenate(heights), np.concatenate(lags), loudness)


def _peaks(frames: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Heights and lags in samples, both [frames, candidates], of the best peaks."""
    window = np.hanning(_WINDOW).astype(np.float32)
    centred = (frames - frames.mean(1, keepdims=True)) * window
    power = np.abs(np.fft.rfft(centred, _FFT)) ** 2
    shape = np.fft.irfft(np.abs(np.fft.rfft(window, _FFT)) ** 2, _FFT)
    correlation = np.fft.irfft(power, _FFT)
    shortest, longest = int(_RATE / HIGHEST), int(_RATE / LOWEST)
    area = slice(shortest - 1, longest + 2)
    scale = (correlation[:, :1] + 1e-9) * (shape[area] / shape[0])
    values = correlation[:, area] / scale
    inner = values[:, 1:-1]
    is_peak = (inner > values[:, :-2]) & (inner >= values[:, 2:])
    lags = np.arange(shortest, longest + 1)
    price = _OCTAVE * np.log2(lags / shortest)
    scored = np.where(is_peak, inner - price, -np.inf)
    order = np.argsort(-scored, axis=1)[:, :_CANDIDATES]
    chosen = np.take_along_axis(scored, order, 1)
    before, at, after = (
        np.take_along_axis(values, order + shift, 1) for shift in (0, 1, 2)
    )  # parabola through the peak and its neighbours
    bend = before - 2 * at + after
    offset = np.where(np.abs(bend) > 1e-9, 0.5 * (before - after) / np.where(bend == 0, 1, bend), 0)
    return chosen, lags[order] + offset.clip(-0.5, 0.5)


def _path(
    heights: NDArray[np.float64], lags: NDArray[np.float64], loudness: NDArray[np.float32]
) -> Pitch:
    """The cheapest path (Viterbi); the last state of each frame is that it has no pitch."""
    count = len(heights)
    quiet = loudness < _SILENT * max(float(loudness.max()), 1e-9)
    usable = np.isfinite(heights) & ~quiet[:, None]
    own = np.full((count, _CANDIDATES + 1), 1e6)
    own[:, :-1] = np.where(usable, _VOICED - np.where(usable, heights, 0), 1e6)
    own[:, -1] = 0.0
    octaves = np.log2(_RATE / np.maximum(lags, 1.0))
    total = own[0].copy()
    came = np.zeros((count, _CANDIDATES + 1), np.int64)
    for i in range(1, count):
        step = np.full((_CANDIDATES + 1, _CANDIDATES + 1), _CHANGE)  # [from, to]
        step[:-1, :-1] = _JUMP * np.abs(octaves[i - 1][:, None] - octaves[i][None])
        step[-1, -1] = 0.0
        sums = total[:, None] + step
        came[i] = sums.argmin(0)
        total = sums.min(0) + own[i]
    made = np.zeros(count, np.float32)
    state = int(total.argmin())
    for i in range(count - 1, -1, -1):
        if state < _CANDIDATES:
            made[i] = _RATE / lags[i, state]
        state = int(came[i, state])
    return made


def correlation(one: Pitch, other: Pitch, pairs: NDArray[np.int64]) -> tuple[float, float, int]:
    """How alike two contours are where both have a pitch.

    Args:
        pairs: [n, 2] frames of the one and the other that belong together.

    Returns:
        Pearson's correlation of their logarithms, the standard deviation of the first one in
        semitones, and the number of pairs; correlation 0 where one of them does not move.
    """
    a, b = one[pairs[:, 0]], other[pairs[:, 1]]
    both = (a > 0) & (b > 0)
    a, b = np.log2(a[both]), np.log2(b[both])
    if len(a) < 10:
        return 0.0, 0.0, len(a)
    spread = 12 * float(a.std())
    still = a.std() < 1e-4 or b.std() < 1e-4
    return 0.0 if still else float(np.corrcoef(a, b)[0, 1]), spread, len(a)


def matched(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.int64]:
    """Frames that belong together, [n, 2]: dynamic time warping of feature rows [T, D]."""
    rows, columns = len(one), len(other)
    cost = np.sqrt(np.maximum(
        (one**2).sum(1)[:, None] + (other**2).sum(1)[None] - 2 * one @ other.T, 0.0
    ))  # fmt: skip
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for diagonal in range(2, rows + columns + 1):  # all cells of a diagonal at once
        i = np.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        j = diagonal - i
        best = np.minimum(total[i - 1, j - 1], np.minimum(total[i - 1, j], total[i, j - 1]))
        total[i, j] = best + cost[i - 1, j - 1]
    path = []
    i, j = rows, columns
    while i and j:
        path.append((i - 1, j - 1))
        steps = ((i - 1, j - 1), (i - 1, j), (i, j - 1))
        i, j = min(steps, key=lambda at: total[at])
    return np.array(path[::-1])
