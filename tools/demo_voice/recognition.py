"""Word accuracy of waves, by pocketsphinx with the language model that it brings."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
import pocketsphinx
import soxr
from numpy.typing import NDArray

_RATE = 16_000
_PEAK = 0.5 * 32767


@dataclasses.dataclass(frozen=True)
class Heard:
    """What was to be said, what the recogniser understood, and how many words of it are right."""

    text: str
    heard: str
    words: int
    right: int

    def __str__(self) -> str:
        return f"{self.right:2} of {self.words:2}  {self.text}  |  {self.heard}"


class Recogniser:
    """One decoder; each wave is recognised by itself."""

    def __init__(self) -> None:
        self._settings = {"samprate": _RATE, "loglevel": "FATAL"}
        self._decoder = pocketsphinx.Decoder(**self._settings)

    def hear(self, wave: NDArray[np.float32], rate: int) -> str:
        """The words of a mono wave in [-1, 1]."""
        samples = soxr.resample(wave, rate, _RATE)
        samples = samples * (_PEAK / max(float(np.abs(samples).max()), 1e-6))
        # The decoder adapts to what it heard before; an answer must not depend on that.
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(samples.astype("<i2").tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return str(found.hypstr) if found else ""

    def judge(self, text: str, wave: NDArray[np.float32], rate: int) -> Heard:
        """How much of ``text`` is understood."""
        heard = self.hear(wave, rate)
        wanted = words(text)
        return Heard(text, heard, len(wanted), len(wanted) - edits(wanted, words(heard)))


def words(text: str) -> list[str]:
    """Lower-case words without marks."""
    return re.findall(r"[a-z']+", text.lower())


def edits(wanted: Sequence[str], given: Sequence[str]) -> int:
    """Words to replace, put in or take out (Levenshtein)."""
    row = list(range(len(given) + 1))
    for i, word in enumerate(wanted, start=1):
        before, row = row, [i]
        for j, other in enumerate(given, start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (word != other)))
    return row[-1]


def accuracy(judged: Sequence[Heard]) -> float:
    """Share of all words that are right; 1 - word error rate."""
    return sum(one.right for one in judged) / sum(one.words for one in judged)
