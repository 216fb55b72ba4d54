"""Word accuracy of waves, by pocketsphinx with the language model that it brings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gsv_client.bench import judges
from gsv_client.bench.judges import edits, words


@dataclasses.dataclass(frozen=True)
class Heard:
    """What was to be said, what the recogniser understood, and how many words of it are right."""

    text: str
    heard: str
    words: int
    right: int

    def __str__(self) -> str:
        return f"{self.right:2} of {self.words:2}  {self.text}  |  {self.heard}"


class Recogniser(judges.Recogniser):
    """One decoder; each wave is recognised by itself."""

    def judge(self, text: str, wave: NDArray[np.float32], rate: int) -> Heard:
        """How much of ``text`` is understood."""
        heard = self.hear(wave, rate)
        wanted = words(text)
        return Heard(text, heard, len(wanted), len(wanted) - edits(wanted, words(heard)))


def accuracy(judged: Sequence[Heard]) -> float:
    """Share of all words that are right; 1 - word error rate."""
    return sum(one.right for one in judged) / sum(one.words for one in judged)
