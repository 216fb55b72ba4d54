"""Phonemes of English words that no dictionary has.

The small sequence-to-sequence network of g2p_en 2.1 (Park and Kim, 2019): a GRU over the letters,
a GRU that writes ARPAbet, at most twenty phonemes. Its weights are read from the g2p_en package,
which is never imported: its import downloads data.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsv.text.english.arpabet import ARPABET

Array = NDArray[np.float32]

_UNKNOWN, _WORD_END = 1, 2  # among the letters
_START, _END = 2, 3  # among the phonemes
_LETTERS = {letter: index for index, letter in enumerate("abcdefghijklmnopqrstuvwxyz", start=3)}
# The network's alphabet: padding, unknown, start, end, then ARPAbet and a bare UW in their order.
_PHONEMES = ("", "UNK", "", "", *sorted([*ARPABET, "UW"]))
_LONGEST = 20  # phonemes
_CACHED_WORDS = 4_096


class Speller:
    """Guesses the pronunciation of a word from its letters."""

    def __init__(self, weights: Path) -> None:
        """``weights``: g2p_en's ``checkpoint20.npz``."""
        with np.load(weights) as arrays:
            self._weights: dict[str, Array] = {name: arrays[name] for name in arrays.files}
        self.phonemes = lru_cache(maxsize=_CACHED_WORDS)(self._phonemes)

    def _phonemes(self, word: str) -> tuple[str, ...]:
        """ARPAbet of a lower-case word; empty where the network has nothing to say."""
        state = np.zeros(self._weights["enc_w_hh"].shape[1], np.float32)
        letters = [*(_LETTERS.get(letter, _UNKNOWN) for letter in word), _WORD_END]
        for letter in letters:
            state = self._step("enc", letter, state)
        spoken: list[int] = []
        last = _START
        while len(spoken) < _LONGEST:
            state = self._step("dec", last, state)
            last = int((self._weights["fc_w"] @ state + self._weights["fc_b"]).argmax())
            if last == _END:
                break
            spoken.append(last)
        return tuple(_PHONEMES[index] for index in spoken)

    def _step(self, side: str, symbol: int, state: Array) -> Array:
        """One step of a GRU whose gates lie in the order reset, update, new."""
        w = self._weights
        given = w[f"{side}_w_ih"] @ w[f"{side}_emb"][symbol] + w[f"{side}_b_ih"]
        kept = w[f"{side}_w_hh"] @ state + w[f"{side}_b_hh"]
        size = len(state)
        reset, update = np.split(1 / (1 + np.exp(-(given + kept)[: 2 * size])), 2)
        new = np.tanh(given[2 * size :] + reset * kept[2 * size :])
        result: Array = (1 - update) * new + update * state
        return result
