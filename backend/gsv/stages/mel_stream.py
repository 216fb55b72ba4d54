"""A mel that arrives in pieces, cut into windows whose waves join exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mel = NDArray[np.float32]


class MelStream:
    """Windows of a mel that arrives in pieces; the waves of their kept parts join exactly.

    Args:
        context: frames on each side that a frame's samples depend on
            (:attr:`gsv.config.VocoderConfig.context_frames`).
        multiple: windows have a multiple of so many frames where there is enough past to add, which
            keeps the number of different shapes small.
    """

    def __init__(self, context: int, multiple: int = 1) -> None:
        self._context = context
        self._multiple = multiple
        self._held: Mel | None = None  # frames still needed
        self._given = 0  # leading ones of them whose samples are out already

    def push(self, mel: Mel, *, last: bool) -> tuple[Mel, int, int] | None:
        """Take more frames [mel, n]; n may be 0 with ``last``.

        Returns:
            The next window [mel, size] and the frames of it, ``first`` to ``end``, whose samples
            are to be kept; None while all frames at hand lack context behind them.
        """
        held = mel if self._held is None else np.concatenate([self._held, mel], axis=-1)
        first, end = self._given, held.shape[-1] - (0 if last else self._context)
        if end <= first:
            self._held = held
            return None
        start = max(0, end - self._context - (self._multiple - 1))
        self._held, self._given = held[:, start:], end - start
        needless = max(0, first - self._context)  # leading frames that these samples don't need
        filling = -(held.shape[-1] - needless) % self._multiple
        cut = max(0, needless - filling)
        return held[:, cut:], first - cut, end - cut
