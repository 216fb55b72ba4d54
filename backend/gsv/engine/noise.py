"""Counter-based noise: every number has an address, so other rows and order can't change it.

A request's seed, the sentence's index and the stream make the key of a Philox4x64-10 generator
(Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"); the step or frame is its
counter. A sequence alone, in a batch of sixteen, cut into chunks, or moved to another instance
reads the same numbers. Only NumPy's raw bits are used: those are stable across its releases, the
shapes of its distributions are not.
"""

from __future__ import annotations

import enum

import numpy as np
from numpy.typing import NDArray

_WORDS_PER_BLOCK = 4  # one Philox4x64 counter value yields four 64-bit words
_TO_UNIT = 2.0**-32


class Stream(enum.IntEnum):
    """What the numbers are for; two streams of one sentence share no number."""

    TOKENS = 1
    FRAMES = 2


def exponential_steps(
    seed: int, sentence: int, first_step: int, steps: int, width: int
) -> NDArray[np.float32]:
    """Exp(1) noise of a sentence's decoding steps ``first_step`` onwards.

    Args:
        seed: the request's seed, 0 to 2**64 - 1.
        sentence: index of the sentence in its request, 0 to 2**32 - 1.
        first_step: 0 for the step that draws the first token.
        steps: number of steps.
        width: values per step; part of the address, so it must stay the same for all calls.

    Returns:
        float32 [steps, width], positive. Any window of steps equals that part of the whole.
    """
    uniform = _uniform(seed, sentence, Stream.TOKENS, first_step, steps, width)
    # 1 - u is exact in float64: the smallest values, which decide argmax(p / q), stay precise.
    noise: NDArray[np.float32] = (-np.log(1.0 - uniform)).astype(np.float32)
    return noise


def normal_frames(
    seed: int, sentence: int, first_frame: int, frames: int, channels: int
) -> NDArray[np.float32]:
    """Gaussian noise of a sentence's mel frames ``first_frame`` onwards (Box-Muller).

    Args:
        seed: the request's seed, 0 to 2**64 - 1.
        sentence: index of the sentence in its request, 0 to 2**32 - 1.
        first_frame: counted from the sentence's first generated frame.
        frames: number of frames.
        channels: values per frame; part of the address, so it must stay the same for all calls.

    Returns:
        float32 [frames, channels]. Any window of frames equals that part of the whole.
    """
    pairs = -(-channels // 2)
    uniform = _uniform(seed, sentence, Stream.FRAMES, first_frame, frames, 2 * pairs)
    radius = np.sqrt(-2.0 * np.log(uniform[:, :pairs]))
    angle = (2.0 * np.pi) * uniform[:, pairs:]
    normal = np.empty((frames, 2 * pairs), dtype=np.float32)
    normal[:, :pairs] = radius * np.cos(angle)
    normal[:, pairs:] = radius * np.sin(angle)
    return normal[:, :channels]


def _uniform(
    seed: int, sentence: int, stream: Stream, first: int, count: int, width: int
) -> NDArray[np.float64]:
    """Uniform numbers inside (0, 1), float64 [count, width], of rows ``first`` onwards."""
    if not (0 <= seed < 2**64 and 0 <= sentence < 2**32):
        raise ValueError(
            f"seed {seed}, sentence {sentence}: allowed are 0 to 2**64 - 1 and 0 to 2**32 - 1"
        )
    if first < 0 or count < 0 or width < 1:
        raise ValueError(f"rows {first} + {count} of width {width}: none may be negative or empty")
    # A row takes whole blocks, so that its counter is a multiple of its index.
    blocks = -(-width // (2 * _WORDS_PER_BLOCK))
    words = blocks * _WORDS_PER_BLOCK
    key = np.array([seed, (int(stream) << 32) | sentence], dtype=np.uint64)
    raw = np.random.Philox(key=key, counter=first * blocks).random_raw(count * words)
    halves = raw.astype("<u8", copy=False).view("<u4").reshape(count, 2 * words)[:, :width]
    return (halves + 0.5) * _TO_UNIT  # the half keeps 0 and 1 out: no infinite noise
