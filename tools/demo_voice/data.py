"""Reads what ``corpus.py`` and ``hubert.py`` stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
HELD_OUT = 100  # last utterances of the corpus, which no step learns from


class Rows:
    """Rows of different lengths, one after another in a flat array."""

    def __init__(self, flat: Array, borders: Array) -> None:
        self._flat, self._borders = flat, borders

    def __len__(self) -> int:
        return len(self._borders) - 1

    def __getitem__(self, index: int) -> Array:
        index %= len(self)
        row: Array = self._flat[self._borders[index] : self._borders[index + 1]]
        return row


class Corpus:
    """Utterances: ``texts``, ``waves`` (int16, 32 kHz), ``mels`` [T, 100] (float16, normalised),
    ``phonemes`` and their ``ends`` (in 0.1 ms)."""

    def __init__(self, path: Path) -> None:
        stored = np.load(path)
        self.texts: list[str] = [str(text) for text in stored["texts"]]
        self.waves = Rows(stored["waves"], stored["wave_borders"])
        self.mels = Rows(stored["mels"], stored["mel_borders"])
        self.phonemes = Rows(stored["phonemes"], stored["phoneme_borders"])
        self.ends = Rows(stored["ends"], stored["phoneme_borders"])

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def learned(self) -> int:
        """How many utterances are for learning; the others are held out."""
        return len(self) - HELD_OUT
